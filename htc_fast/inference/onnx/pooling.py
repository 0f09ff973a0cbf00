"""RoI features in ONNX: one RoIAlign per level; and maps of several sizes summed at one."""

import itertools
from collections.abc import Sequence

import numpy as np

from htc_fast.inference.onnx.boxes import FLOAT, INT64, Value, constant, either, finite, op, wide

NOWHERE = -30000, -30000, -29984, -29984  # a box outside every map, where all is zero; 16 bits hold it


def multi_level_roi_align(
    features: Sequence[Value],
    rois: Value,
    out_h: int,
    out_w: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    finest_size: float,
    semantic: Value | None,
    semantic_scale: float,
    semantic_grid: int,
) -> Value:
    """One RoiAlign per level, of all RoIs, in float32; RoIs of other levels are empty there and cost no samples.

    OpenVINO and TensorRT divide by the number of samples, so nothing reads what an empty box gives.
    """
    boxes, images = _numbered(rois)
    options: dict = {"sampling_ratio": max(sampling_ratio, 0)}
    options["coordinate_transformation_mode"] = "half_pixel" if aligned else "output_half_pixel"
    sides = op.Sub(*reversed(op.Split(boxes, axis=1, num_outputs=2)))
    real = finite(boxes)
    if aligned and sampling_ratio <= 0:
        real = op.And(real, op.Greater(op.ReduceMin(sides, constant([1], np.int64), keepdims=0), constant(0.0)))
    boxes = op.Where(op.Unsqueeze(real, constant([1], np.int64)), boxes, constant(NOWHERE))
    out = None
    for level, scale, here in zip(features, spatial_scales, levels_of(sides, finest_size, len(features))):
        size = {"output_height": out_h, "output_width": out_w, "spatial_scale": scale}
        own = boxes if here is None else either(here, boxes, 0.0)
        pooled = op.RoiAlign(wide(level), own, images, **size, **options)
        out = pooled if out is None else op.Where(op.Unsqueeze(here, constant([1, 2, 3], np.int64)), pooled, out)
    if semantic is not None:
        size = {"output_height": semantic_grid, "output_width": semantic_grid, "spatial_scale": semantic_scale}
        grid = op.RoiAlign(wide(semantic), boxes, images, **size, **options)
        out = op.Add(out, _averaged(grid, semantic_grid, (out_h, out_w)))
    return out if features[0].dtype == FLOAT else op.Cast(out, to=features[0].dtype)


def levels_of(sides: Value, finest_size: float, count: int) -> list[Value | None]:
    """sides [K, 2] of boxes -> per level which of them read it, bool [K]; None: all do."""
    if count == 1:
        return [None]
    area = op.Max(op.ReduceProd(sides, constant([1], np.int64), keepdims=0), constant(0.0))
    size = op.Add(op.Div(op.Sqrt(area), constant(finest_size)), constant(1e-6))
    above = [op.GreaterOrEqual(size, constant(2.0**number)) for number in range(1, count)]
    between = [op.Xor(one, other) for one, other in itertools.pairwise(above)]
    return [op.Not(above[0]), *between, above[-1]]


def _averaged(grid: Value, side: int, size: tuple[int, int]) -> Value:
    """[K, C, side, side] -> [K, C, *size], as adaptive_avg_pool2d does it."""
    if (side, side) == size:
        return grid
    if side % size[0] == 0 and side % size[1] == 0:
        steps = [side // size[0], side // size[1]]
        return op.AveragePool(grid, kernel_shape=steps, strides=steps)
    down, across = (_means(side, bins) for bins in size)
    return op.MatMul(constant(down), op.MatMul(grid, constant(across.T)))


def _means(side: int, bins: int) -> np.ndarray:
    """[bins, side]: each bin's mean."""
    weights = np.zeros((bins, side), np.float32)
    for number in range(bins):
        first, last = number * side // bins, -(-(number + 1) * side // bins)
        weights[number, first:last] = 1 / (last - first)
    return weights


def _numbered(rois: Value) -> tuple[Value, Value]:
    """[N, R, 4] or [K, 5] -> boxes [K, 4] and the images' numbers [K] int64."""
    if len(rois.shape) == 2:
        numbers = op.Gather(rois, constant(0, np.int64), axis=1)
        return op.Gather(wide(rois), constant([1, 2, 3, 4], np.int64), axis=1), op.Cast(numbers, to=INT64)
    images, each, _ = rois.shape
    boxes = op.Reshape(wide(rois), constant([-1, 4], np.int64))
    if isinstance(images, int):
        return boxes, constant(np.repeat(np.arange(images), each), np.int64)
    total = op.Range(constant(0, np.int64), op.Squeeze(op.Shape(boxes, start=0, end=1)), constant(1, np.int64))
    return boxes, op.Div(total, constant(each, np.int64))


def resampled_sum(maps: Sequence[Value], height: int, width: int, relu: bool, keep: bool) -> Sequence[Value]:
    """Resize, where the size is another, ReLU and a sum."""
    parts = []
    for one in maps:
        if list(one.shape[2:]) != [height, width]:
            sizes = op.Concat(op.Shape(one, start=0, end=2), constant([height, width], np.int64), axis=0)
            one = op.Resize(one, None, None, sizes, mode="linear", coordinate_transformation_mode="align_corners")
        parts.append(op.Relu(one) if relu else one)
    total = parts[0] if len(parts) == 1 else op.Sum(*parts)
    return total, op.Cast(total, to=2)  # the second only a gradient reads
