"""Non-maximum suppression in ONNX: sizes that depend on data begin and end inside one function, which gives fixed ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnxscript import opset18 as op

from htc_fast.inference.onnx.boxes import FLOAT, INT32, INT64, NOTHING, Value, constant, rows

LOWEST = NOTHING / 2  # what is below is no candidate


def survivors(boxes: Value, scores: Value, iou_threshold: float, threshold: float, most: int, place: Callable) -> Value:
    """boxes [B, K, 4], scores [B, C, K] -> flat places of what one NonMaxSuppression per class keeps: [S].

    most   kept per class at most
    place  (first, class, box) [S, 1] each -> a place [S, 2] in what the caller selects from
    """
    kept = op.NonMaxSuppression(boxes, scores, constant(most, np.int64), constant(iou_threshold), constant(threshold))
    return place(*op.Split(kept, axis=1, num_outputs=3))


def best(scores: Value, kept: Value, limit: int) -> tuple[Value, Value, Value]:
    """scores [N, K], kept [S, 2] (image, place) -> the best scores [N, P], their places [N, P], found [N, P] bool.

    P is the smaller of limit and K; equal scores: the first place.
    """
    nothing = op.Expand(constant(NOTHING), op.Shape(scores))
    left = op.ScatterND(nothing, kept, op.GatherND(scores, kept))
    values, places = op.TopK(left, constant([limit], np.int64), axis=1, largest=1, sorted=1)
    return values, places, op.Greater(values, constant(LOWEST))


def apart(boxes: Value, groups: Value) -> Value:
    """boxes [N, K, 4] moved so that those of different groups [N, K] int64 do not touch: NMS of all is NMS of each.

    On a board of 16 columns, which costs their coordinates fewer bits than a row would.
    """
    reach = op.Add(op.ReduceMax(op.Abs(boxes), keepdims=0), constant(1.0))
    width = op.Mul(reach, constant(2.0))
    column, row = op.Mod(groups, constant(16, np.int64)), op.Div(groups, constant(16, np.int64))
    column, row = (
        op.Unsqueeze(op.Mul(op.Cast(one, to=FLOAT), width), constant([2], np.int64)) for one in (column, row)
    )
    return op.Add(boxes, op.Concat(column, row, column, row, axis=2))


def soft_nms(
    boxes: Value, scores: Value, groups: Value, factor: Callable[[Value], Value], least: float, limit: int
) -> tuple[Value, Value, Value]:
    """boxes [N, K, 4], scores [N, K], groups [N, K] -> places [N, P], their scores [N, P], found [N, P] bool.

    One Loop: the best is taken, the others of its group decay.

    factor  IoU [N, K] with the best -> what is left of a score
    """
    raise NotImplementedError


def count(found: Value) -> Value:
    """found [N, P] bool -> how many [N] int32."""
    return op.ReduceSum(op.Cast(found, to=INT32), constant([1], np.int64), keepdims=0)
