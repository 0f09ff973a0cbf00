"""What our operators are in ONNX: one function per operator, of standard operators, with the operator's arguments.

Each takes and gives values of the graph that torch's exporter builds; lists of tensors are lists of values.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from htc_fast.errors import UserError
from htc_fast.inference.onnx import suppression
from htc_fast.inference.onnx.boxes import (
    FLOAT,
    INT32,
    INT64,
    NOTHING,
    Value,
    constant,
    decode,
    either,
    finite,
    op,
    padded,
    rows,
    wide,
)
from htc_fast.inference.onnx.layers import conv2d, sort
from htc_fast.inference.onnx.pooling import multi_level_roi_align, resampled_sum

INSTEAD = {
    "pr_roi_pool": 'ONNX has no operator for the exact mean over a bin (roi_pooling="pr_roi_pool"): export a detector '
    'with roi_pooling="roi_align", keep our operators as nodes of their own (own_operators), or write a .pt2.',
}


def table() -> dict[Any, Callable]:
    """For torch.onnx.export's custom_translation_table."""
    ours = torch.ops.htc_fast
    functions = (
        propose,
        refine,
        detections,
        batched_nms_padded,
        soft_nms_padded,
        multi_level_roi_align,
        resampled_sum,
    )
    torchs: dict[Any, Callable] = {torch.ops.aten.conv2d.default: conv2d, torch.ops.aten.sort.stable: sort}
    return torchs | {getattr(ours, one.__name__).default: one for one in functions}


def check(program: ExportedProgram, known: Collection[Any] | None = None) -> None:
    """raises  UserError for a program with an operator of ours that is not among the known; None: those of `table`"""
    if found := missing(program, known):
        raise UserError(found[0])


def missing(program: ExportedProgram, known: Collection[Any] | None = None) -> list[str]:
    """A sentence per operator of ours that has no translation."""
    parts = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    used = {node.target for graph in parts for node in graph.nodes if node.op == "call_function"}
    unknown = used - set(table() if known is None else known)
    names = sorted(one._opname for one in unknown if getattr(one, "namespace", "").startswith("htc_fast"))
    told = "htc_fast::{} has no translation to ONNX: write a .pt2 of this detector instead."
    return [INSTEAD.get(name, told.format(name)) for name in names]


def propose(
    objectness: Sequence[Value],
    deltas: Sequence[Value],
    image_sizes: Value,
    anchors: Sequence[float],
    strides: Sequence[float],
    per_level: int,
    limit: int,
    iou_threshold: float,
    min_size: float,
    delta_std: Sequence[float],
) -> Sequence[Value]:
    """Per level the best logits' boxes, one NonMaxSuppression whose classes are the levels, the best of all.

    What is not finite is no candidate.
    """
    places, logits, moves, counts, first = [], [], [], [], 0
    for number, (objects, offsets) in enumerate(zip(objectness, deltas)):
        _, each, height, width = objects.shape
        total = height * width * each
        flat = wide(op.Reshape(op.Transpose(objects, perm=[0, 2, 3, 1]), constant([0, -1], np.int64)))
        flat = op.Where(finite(flat, None), flat, constant(NOTHING))
        kept = min(per_level, total)
        best, order = op.TopK(flat, constant([kept], np.int64), axis=1)
        offsets = op.Reshape(op.Transpose(offsets, perm=[0, 2, 3, 1]), constant([0, total, 4], np.int64))
        base, steps = anchors[4 * first : 4 * (first + each)], strides[2 * number : 2 * number + 2]
        places.append(anchors_at(order, base, width, steps))
        moves.append(rows(offsets, order))
        logits.append(best)
        counts.append(kept)
        first += each
    places, logits, moves = op.Concat(*places, axis=1), op.Concat(*logits, axis=1), wide(op.Concat(*moves, axis=1))
    boxes = decode(moves, places, delta_std, image_sizes)
    sides = op.ReduceMin(op.Sub(*reversed(op.Split(boxes, axis=2, num_outputs=2))), constant([2], np.int64), keepdims=0)
    real = op.And(op.Greater(sides, constant(min_size)), finite(moves))
    logits = op.Where(real, logits, constant(NOTHING))
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
    picked = either(found, rows(boxes, places), 0.0)
    scores = op.Where(found, op.Sigmoid(values), constant(0.0))
    missing = limit - few
    return padded(picked, 3, missing, 0), padded(scores, 2, missing, 0), padded(found, 2, missing, False, bool)


def refine(
    boxes: Value, logits: Value, deltas: Value, std: Sequence[float], image_sizes: Value, labels: Value | None
) -> Value:
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
    return moved if labels is None else either(op.Less(best, constant(classes, np.int64)), moved, 0.0)


def detections(
    logits: Sequence[Value],
    deltas: Value,
    boxes: Value,
    valid: Value | None,
    image_sizes: Value,
    std: Sequence[float],
    average_logits: bool,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
) -> Sequence[Value]:
    """Softmax, one NonMaxSuppression, whose classes share the boxes where deltas do, and one TopK."""
    count, classes = boxes.shape[1], logits[0].shape[2] - 1
    boxes, moves = wide(boxes), wide(deltas)
    scores = _scores(logits, boxes, valid, average_logits)
    each = constant(classes, np.int64)
    if shared := deltas.shape[2] == 4:
        moved = decode(moves, boxes, std, image_sizes)
        scores = either(_no_nan(moves), scores, NOTHING)
        by_class = op.Transpose(scores, perm=[0, 2, 1])
        kept = suppression.survivors(
            moved,
            by_class,
            iou_threshold,
            score_threshold,
            limit,
            lambda image, label, box: op.Concat(image, op.Add(op.Mul(box, each), label), axis=1),
        )
    else:
        four = op.Reshape(moves, constant([0, 0, classes, 4], np.int64))
        moved = decode(four, op.Unsqueeze(boxes, constant([2], np.int64)), std, image_sizes, rank=4)
        scores = op.Where(_no_nan(four), scores, constant(NOTHING))
        rows_of = op.Reshape(op.Transpose(moved, perm=[0, 2, 1, 3]), constant([-1, count, 4], np.int64))
        flat = op.Reshape(op.Transpose(scores, perm=[0, 2, 1]), constant([-1, 1, count], np.int64))
        kept = suppression.survivors(
            rows_of,
            flat,
            iou_threshold,
            score_threshold,
            limit,
            lambda first, _, box: op.Concat(
                op.Div(first, each), op.Add(op.Mul(box, each), op.Mod(first, each)), axis=1
            ),
        )
        moved = op.Reshape(moved, constant([0, -1, 4], np.int64))
    few = min(limit, count * classes)
    values, places, found = suppression.best(op.Reshape(scores, constant([0, -1], np.int64)), kept, few)
    picked = either(found, rows(moved, op.Div(places, each) if shared else places), 0.0)
    labels = op.Where(found, op.Mod(places, each), constant(-1, np.int64))
    return (
        padded(picked, 3, limit - few, 0),
        padded(op.Where(found, values, constant(0.0)), 2, limit - few, 0),
        padded(labels, 2, limit - few, -1, np.int64),
        suppression.count(found),
    )


def _scores(logits: Sequence[Value], boxes: Value, valid: Value | None, average_logits: bool) -> Value:
    """logits [N, R, classes + 1] of every stage -> probabilities [N, R, classes]; NOTHING in rows that are none."""
    stages, last = [wide(one) for one in logits], constant([2], np.int64)
    whole = stages[0] if len(stages) == 1 else op.Sum(*stages)
    # A softmax that meets NaN or +inf gives what its runtime likes.
    largest = constant(np.finfo(np.float32).max)
    below: Value = op.Cast(op.LessOrEqual(whole, largest), to=INT32)
    real = op.And(op.Greater(op.ReduceMin(below, last, keepdims=0), constant(0, np.int32)), finite(boxes))
    if valid is not None:
        real = op.And(real, valid)
    if not average_logits and len(stages) > 1:
        whole = op.Sum(*(op.Softmax(one, axis=-1) for one in stages))
    mean = whole if len(stages) == 1 else op.Div(whole, constant(len(stages)))
    scores = op.Softmax(mean, axis=-1) if average_logits or len(stages) == 1 else mean
    return either(real, _without_background(scores, logits[0].shape[2] - 1), NOTHING)


def _no_nan(moves: Value) -> Value:
    """Which rows [..., 4] have none; infinite moves are limited or clipped."""
    return op.Not(op.IsNaN(op.ReduceL1(moves, constant([-1], np.int64), keepdims=0)))


def batched_nms_padded(
    boxes: Value, scores: Value, idxs: Value, iou_threshold: float, max_output: int, score_threshold: float
) -> Sequence[Value]:
    """One NonMaxSuppression and one TopK; what is not finite is no candidate."""
    few = min(max_output, boxes.shape[1])
    boxes, scores = wide(boxes), wide(scores)
    scores = op.Where(finite(boxes), scores, constant(NOTHING))
    kept = suppression.survivors(
        boxes,
        suppression.by_group(scores, op.Cast(idxs, to=INT64)),
        iou_threshold,
        score_threshold,
        max_output,
        lambda image, _, box: op.Concat(image, box, axis=1),
    )
    _, places, found = suppression.best(scores, kept, few)
    places = op.Where(found, places, constant(-1, np.int64))
    return padded(places, 2, max_output - few, -1, np.int64), suppression.count(found)


def soft_nms_padded(
    boxes: Value,
    scores: Value,
    idxs: Value,
    gaussian: bool,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    max_output: int,
) -> Sequence[Value]:
    """One Loop of max_output steps."""
    few = min(max_output, boxes.shape[1])
    factor = suppression.gaussian(sigma) if gaussian else suppression.linear(iou_threshold)
    groups = op.Cast(idxs, to=INT64)
    picks, values, found = suppression.soft_nms(wide(boxes), wide(scores), groups, factor, min_score, few)
    picks, values = op.Where(found, picks, constant(-1, np.int64)), op.Where(found, values, constant(0.0))
    missing = max_output - few
    return padded(picks, 2, missing, -1, np.int64), padded(values, 2, missing, 0), suppression.count(found)


def _without_background(scores: Value, classes: int) -> Value:
    """[N, R, classes + 1] -> [N, R, classes]."""
    return op.Slice(scores, constant([0], np.int64), constant([classes], np.int64), constant([2], np.int64))
