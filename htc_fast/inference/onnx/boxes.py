"""Boxes in ONNX: moved by their deltas, clipped, picked by index; one function per step, of values of a graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnxscript import opset18

from htc_fast.ops.reference.boxes import LARGEST_CHANGE

op: Any = opset18  # its own annotations know no union of types
Value = Any  # of the graph: what onnxscript's operators take and give
FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9  # ONNX's numbers of types
NOTHING = -1e30  # the score of what is no candidate; finite, since not every runtime sorts infinities


def constant(values: Any, kind: type = np.float32) -> Value:
    """A tensor of the graph itself."""
    return op.Constant(value=onnx_ir.tensor(np.asarray(values, kind)))


def wide(x: Value) -> Value:
    """In float32, as all geometry and scores."""
    return x if x.dtype == FLOAT else op.Cast(x, to=FLOAT)


def below(number: float) -> float:
    """The largest float32 that is not above a number."""
    near = np.float32(number)
    return float(near if float(near) <= number else np.nextafter(near, np.float32(-np.inf)))


def finite(values: Value, axis: int | None = -1) -> Value:
    """Which numbers are neither NaN nor infinite; which rows along an axis, which goes."""
    size = op.Abs(values) if axis is None else op.ReduceL1(values, constant([axis], np.int64), keepdims=0)
    return op.LessOrEqual(size, constant(np.finfo(np.float32).max))


def either(mask: Value, values: Value, number: float) -> Value:
    """values [..., 4] where mask [...], the number elsewhere."""
    return op.Where(op.Unsqueeze(mask, constant([-1], np.int64)), values, constant(number))


def decode(deltas: Value, boxes: Value, std: Sequence[float], image_sizes: Value, rank: int = 3) -> Value:
    """deltas [N, R, ..., 4] and boxes float32, image_sizes [N, 2] -> boxes [N, R, ..., 4], clipped.

    rank  of deltas: shapes of values within a function are inferred when the graph is done
    """
    deltas = op.Mul(deltas, constant(std))
    low, high = op.Split(boxes, axis=-1, num_outputs=2)
    shift, growth = op.Split(deltas, axis=-1, num_outputs=2)
    size = op.Sub(high, low)
    centre = op.Add(op.Mul(op.Add(low, high), constant(0.5)), op.Mul(size, shift))
    growth = op.Exp(op.Clip(growth, constant(-LARGEST_CHANGE), constant(LARGEST_CHANGE)))
    half = op.Mul(op.Mul(size, growth), constant(0.5))
    decoded = op.Concat(op.Sub(centre, half), op.Add(centre, half), axis=-1)
    limit: Value = op.Cast(op.Gather(image_sizes, constant([1, 0, 1, 0], np.int64), axis=1), to=FLOAT)
    middle = list(range(1, rank - 1))
    return op.Min(op.Max(decoded, constant(0.0)), op.Unsqueeze(limit, constant(middle, np.int64)))


def rows(values: Value, indices: Value) -> Value:
    """values [N, K, ...], indices [N, P] -> [N, P, ...]: each image's own rows."""
    return op.GatherND(values, op.Unsqueeze(indices, constant([-1], np.int64)), batch_dims=1)


def padded(values: Value, rank: int, missing: int, number: float, kind: type = np.float32) -> Value:
    """values [N, P, ...] with `missing` more rows of one number behind."""
    if missing <= 0:
        return values
    if kind is bool:  # TensorRT pads numbers alone
        return op.Cast(padded(op.Cast(values, to=INT32), rank, missing, number, np.int32), to=BOOL)
    ends = [0] * (2 * rank)
    ends[rank + 1] = missing
    return op.Pad(values, constant(ends, np.int64), constant(number, kind))
