"""What our operators are in ONNX: one function per operator, of standard operators, with the operator's arguments.

Each takes and gives values of the graph that torch's exporter builds; lists of tensors are lists of values.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import opset18 as op

from htc_fast.inference.onnx import suppression
from htc_fast.inference.onnx.boxes import FLOAT, INT64, NOTHING, Value, constant, decode, padded, rows, wide


def table() -> dict[Any, Callable]:
    """For torch.onnx.export's custom_translation_table."""
    ours = torch.ops.htc_fast
    functions = (propose, refine, detections, batched_nms_padded, multi_level_roi_align, resampled_sum)
    return {getattr(ours, one.__name__).default: one for one in functions}


def propose(objectness, deltas, image_sizes, anchors, strides, per_level, limit, iou_threshold, min_size, delta_std):
    """Per level the best logits' boxes, one NonMaxSuppression whose classes are the levels, the best of all."""
    boxes, logits, counts, first = [], [], [], 0
    for number, (objects, offsets) in enumerate(zip(objectness, deltas)):
        _, each, height, width = objects.shape
        total = height * width * each
        flat = op.Reshape(op.Transpose(objects, perm=[0, 2, 3, 1]), constant([0, -1], np.int64))
        kept = min(per_level, total)
        best, places = op.TopK(wide(flat), constant([kept], np.int64), axis=1)
        moves = op.Reshape(op.Transpose(wide(offsets), perm=[0, 2, 3, 1]), constant([0, total, 4], np.int64))
        here = anchors_at(places, anchors[4 * first : 4 * (first + each)], width, strides[2 * number : 2 * number + 2])
        level = decode(rows(moves, places), here, delta_std, image_sizes)
        low, high = op.Split(level, axis=2, num_outputs=2)
        sides = op.ReduceMin(op.Sub(high, low), constant([2], np.int64), keepdims=0)
        boxes.append(level)
        logits.append(op.Where(op.Greater(sides, constant(min_size)), best, constant(NOTHING)))
        counts.append(kept)
        first += each
    boxes, logits = op.Concat(*boxes, axis=1), op.Concat(*logits, axis=1)
    own = np.repeat(np.arange(len(counts)), counts)[None] == np.arange(len(counts))[:, None]
    scores = op.Where(constant(own[None], bool), op.Unsqueeze(logits, constant([1], np.int64)), constant(NOTHING))
    kept = suppression.survivors(
        boxes, scores, iou_threshold, suppression.LOWEST, limit, lambda image, _, box: op.Concat(image, box, axis=1)
    )
    return chosen(boxes, logits, kept, limit, sum(counts))


def anchors_at(places: Value, anchors: Sequence[float], width: int, strides: Sequence[float]) -> Value:
    """places [N, P] in a level's list, pixel by pixel, anchor by anchor -> anchors [N, P, 4]."""
    each = len(anchors) // 4
    pixel, kind = op.Div(places, constant(each, np.int64)), op.Mod(places, constant(each, np.int64))
    y, x = op.Div(pixel, constant(width, np.int64)), op.Mod(pixel, constant(width, np.int64))
    y, x = (
        op.Unsqueeze(op.Mul(op.Cast(one, to=FLOAT), constant(step)), constant([2], np.int64))
        for one, step in zip((y, x), strides)
    )
    base = op.Gather(constant(np.asarray(anchors, np.float32).reshape(-1, 4)), kind)
    return op.Add(base, op.Concat(x, y, x, y, axis=2))


def chosen(boxes: Value, logits: Value, kept: Value, limit: int, total: int) -> tuple[Value, Value, Value]:
    """boxes [N, limit, 4], probabilities [N, limit] and valid [N, limit] of the best that were kept; zeros behind."""
    few = min(limit, total)
    values, places, found = suppression.best(logits, kept, few)
    real = op.Cast(found, to=FLOAT)
    picked = op.Mul(rows(boxes, places), op.Unsqueeze(real, constant([2], np.int64)))
    scores = op.Mul(op.Sigmoid(values), real)
    missing = limit - few
    return padded(picked, 3, missing, 0), padded(scores, 2, missing, 0), padded(found, 2, missing, False, bool)


def refine(boxes, logits, deltas, std, image_sizes, labels):
    """Elementwise; of deltas that differ by class those of the best, or of `labels`."""
    boxes, moves = wide(boxes), wide(deltas)
    if deltas.shape[2] == 4:
        return decode(moves, boxes, std, image_sizes)
    classes = logits.shape[2] - 1
    best = op.ArgMax(_without_background(wide(logits), classes), axis=2, keepdims=0)
    if labels is not None:
        given = op.Cast(labels, to=INT64)
        best = op.Where(op.Less(given, constant(0, np.int64)), best, given)
    own = op.GatherND(
        op.Reshape(moves, constant([0, 0, classes, 4], np.int64)),
        op.Unsqueeze(op.Min(best, constant(classes - 1, np.int64)), constant([-1], np.int64)),
        batch_dims=2,
    )
    moved = decode(own, boxes, std, image_sizes)
    real = op.Cast(op.Less(best, constant(classes, np.int64)), to=FLOAT)
    return op.Mul(moved, op.Unsqueeze(real, constant([2], np.int64)))


def detections(logits, deltas, boxes, valid, image_sizes, std, average_logits, score_threshold, iou_threshold, limit):
    """Softmax, one NonMaxSuppression, whose classes share the boxes where deltas do, and one TopK."""
    count = boxes.shape[1]
    boxes, moves, stages = wide(boxes), wide(deltas), [wide(one) for one in logits]
    if not average_logits:
        stages = [op.Softmax(one, axis=-1) for one in stages]
    mean = stages[0] if len(stages) == 1 else op.Div(op.Sum(*stages), constant(len(stages)))
    scores = _without_background(op.Softmax(mean, axis=-1) if average_logits else mean, logits[0].shape[2] - 1)
    if valid is not None:
        scores = op.Where(op.Unsqueeze(valid, constant([2], np.int64)), scores, constant(NOTHING))
    classes = logits[0].shape[2] - 1
    by_class = op.Transpose(scores, perm=[0, 2, 1])
    each = constant(classes, np.int64)
    if shared := deltas.shape[2] == 4:
        moved = decode(moves, boxes, std, image_sizes)
        place = lambda image, label, box: op.Concat(image, op.Add(op.Mul(box, each), label), axis=1)
        kept = suppression.survivors(moved, by_class, iou_threshold, score_threshold, limit, place)
    else:
        four = op.Reshape(moves, constant([0, 0, classes, 4], np.int64))
        moved = decode(four, op.Unsqueeze(boxes, constant([2], np.int64)), std, image_sizes, rank=4)
        rows_of = op.Reshape(op.Transpose(moved, perm=[0, 2, 1, 3]), constant([-1, count, 4], np.int64))
        place = lambda first, _, box: op.Concat(
            op.Div(first, each), op.Add(op.Mul(box, each), op.Mod(first, each)), axis=1
        )
        flat = op.Reshape(by_class, constant([-1, 1, count], np.int64))
        kept = suppression.survivors(rows_of, flat, iou_threshold, score_threshold, limit, place)
        moved = op.Reshape(moved, constant([0, -1, 4], np.int64))
    flat = op.Reshape(scores, constant([0, -1], np.int64))
    few = min(limit, count * classes)
    values, places, found = suppression.best(flat, kept, few)
    picked = rows(moved, op.Div(places, each) if shared else places)
    real = op.Cast(found, to=FLOAT)
    labels = op.Where(found, op.Mod(places, each), constant(-1, np.int64))
    return (
        padded(op.Mul(picked, op.Unsqueeze(real, constant([2], np.int64))), 3, limit - few, 0),
        padded(op.Mul(values, real), 2, limit - few, 0),
        padded(labels, 2, limit - few, -1, np.int64),
        suppression.count(found),
    )


def batched_nms_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold):
    total = boxes.shape[1]
    boxes, scores = wide(boxes), wide(scores)
    threshold = max(score_threshold, suppression.LOWEST)
    moved = suppression.apart(boxes, op.Cast(idxs, to=INT64))
    kept = suppression.survivors(
        moved,
        op.Unsqueeze(op.Max(scores, constant(NOTHING)), constant([1], np.int64)),
        iou_threshold,
        threshold,
        max_output,
        lambda image, _, box: op.Concat(image, box, axis=1),
    )
    few = min(max_output, total)
    _, places, found = suppression.best(scores, kept, few)
    places = op.Where(found, places, constant(-1, np.int64))
    return padded(places, 2, max_output - few, -1, np.int64), suppression.count(found)


def multi_level_roi_align(
    features,
    rois,
    out_h,
    out_w,
    spatial_scales,
    sampling_ratio,
    aligned,
    finest_size,
    semantic,
    semantic_scale,
    semantic_grid,
):
    """One RoiAlign per level, of all RoIs; those of other levels are empty there, so that they cost no samples."""
    boxes, images = _numbered(rois)
    sides = op.Sub(*reversed(op.Split(boxes, axis=1, num_outputs=2)))
    area = op.Max(op.ReduceProd(sides, constant([1], np.int64), keepdims=1), constant(0.0))
    size = op.Add(op.Div(op.Sqrt(area), constant(finest_size)), constant(1e-6))
    options = dict(sampling_ratio=max(sampling_ratio, 0))
    options["coordinate_transformation_mode"] = "half_pixel" if aligned else "output_half_pixel"
    out = None
    for number, (level, scale) in enumerate(zip(features, spatial_scales)):
        own, here = boxes, None
        if len(features) > 1:
            here = op.Less(size, constant(2.0 ** (number + 1)))
            if number == len(features) - 1:
                here = op.GreaterOrEqual(size, constant(2.0**number))
            elif number:
                here = op.And(here, op.GreaterOrEqual(size, constant(2.0**number)))
            own = op.Where(here, boxes, constant(0.0))
        pooled = op.RoiAlign(
            level, own, images, output_height=out_h, output_width=out_w, spatial_scale=scale, **options
        )
        if out is None:
            out = pooled
        else:
            out = op.Where(op.Unsqueeze(here, constant([2, 3], np.int64)), pooled, out)
    if semantic is not None:
        grid = op.RoiAlign(
            semantic,
            boxes,
            images,
            output_height=semantic_grid,
            output_width=semantic_grid,
            spatial_scale=semantic_scale,
            **options,
        )
        if (semantic_grid, semantic_grid) != (out_h, out_w):
            grid = op.AveragePool(
                grid,
                kernel_shape=[semantic_grid // out_h, semantic_grid // out_w],
                strides=[semantic_grid // out_h, semantic_grid // out_w],
            )
        out = op.Add(out, grid)
    return out


def _numbered(rois: Value) -> tuple[Value, Value]:
    """[N, R, 4] or [K, 5] -> boxes [K, 4] and the images' numbers [K] int64."""
    if len(rois.shape) == 2:
        numbers, boxes = op.Split(wide(rois), constant([1, 4], np.int64), axis=1)
        return boxes, op.Cast(op.Squeeze(numbers, constant([1], np.int64)), to=INT64)
    images, each, _ = rois.shape
    boxes = op.Reshape(wide(rois), constant([-1, 4], np.int64))
    if isinstance(images, int):
        return boxes, constant(np.repeat(np.arange(images), each), np.int64)
    total = op.Range(constant(0, np.int64), op.Squeeze(op.Shape(boxes, start=0, end=1)), constant(1, np.int64))
    return boxes, op.Div(total, constant(each, np.int64))


def resampled_sum(maps, height, width, relu, keep):
    """Resize, where the size is another, ReLU and a sum."""
    parts = []
    for one in maps:
        if list(one.shape[2:]) != [height, width]:
            sizes = op.Concat(op.Shape(one, start=0, end=2), constant([height, width], np.int64), axis=0)
            one = op.Resize(one, None, None, sizes, mode="linear", coordinate_transformation_mode="align_corners")
        parts.append(op.Relu(one) if relu else one)
    total = parts[0] if len(parts) == 1 else op.Sum(*parts)
    return total, op.Cast(total, to=2)  # the second only a gradient reads


def _without_background(scores: Value, classes: int) -> Value:
    """[N, R, classes + 1] -> [N, R, classes]."""
    return op.Slice(scores, constant([0], np.int64), constant([classes], np.int64), constant([2], np.int64))
