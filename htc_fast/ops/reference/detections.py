"""From a cascade's outputs to detections: ensemble, thresholds, NMS per class, the best of all classes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference import exact
from htc_fast.ops.reference.boxes import decode_boxes
from htc_fast.ops.reference.nms import batched_nms_padded


def ensemble(logits: list[Tensor], average_logits: bool) -> Tensor:
    """The stages' class logits [N, R, classes + 1], averaged before or after the softmax -> scores [N, R, classes]."""
    stages = tuple(one.float() for one in logits)
    if average_logits:
        return exact.softmax(exact.added(stages) / len(stages))[..., :-1]
    return (exact.added(tuple(map(exact.softmax, stages))) / len(stages))[..., :-1]


def detections(
    logits: list[Tensor],
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor | None,
    image_sizes: Tensor,
    std: Sequence[float],
    average_logits: bool,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
    suppress: Callable = batched_nms_padded,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> boxes [N, limit, 4], scores [N, limit], labels [N, limit] (-1 where padded), count [N].

    suppress  what does the work of batched_nms_padded
    """
    scores = ensemble(logits, average_logits)
    boxes = decoded(deltas, boxes, std, image_sizes, scores.shape[2])
    return best(scores, boxes, valid, score_threshold, iou_threshold, limit, suppress)


def decoded(deltas: Tensor, boxes: Tensor, std: Sequence[float], image_sizes: Tensor | None, classes: int) -> Tensor:
    """deltas [N, R, 4 | 4 * classes], boxes [N, R, 4] -> where each class sees each box, [N, R, 1 | classes, 4]."""
    if deltas.shape[2] == 4:
        return decode_boxes(deltas, boxes, std, image_sizes)[:, :, None]
    return decode_boxes(deltas.unflatten(2, (classes, 4)), boxes[:, :, None], std, image_sizes)


def best(
    scores: Tensor,
    boxes: Tensor,
    valid: Tensor | None,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
    suppress: Callable = batched_nms_padded,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scores [N, R, classes], boxes [N, R, 1 | classes, 4] -> as `detections`.

    suppress  returns indices [N, limit] and count [N]; or new scores [N, limit] between them
    """
    classes = scores.shape[2]
    labels = torch.arange(classes, device=scores.device).repeat(scores.shape[1])[None].expand(scores.shape[0], -1)
    if valid is not None:
        scores = scores.masked_fill(~valid[..., None], -torch.inf)
    boxes, scores = boxes.expand(-1, -1, classes, -1).flatten(1, 2), scores.flatten(1)
    return chosen(boxes, scores, labels, score_threshold, iou_threshold, limit, suppress)


def chosen(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
    suppress: Callable = batched_nms_padded,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `best`, of candidates in any number: boxes [N, K, 4], scores [N, K], labels [N, K]."""
    indices, *given, count = suppress(boxes, scores, labels, iou_threshold, limit, score_threshold)
    if scores.shape[1] == 0:
        return boxes.new_zeros(*indices.shape, 4), scores.new_zeros(indices.shape), indices, count
    found, indices = indices >= 0, indices.clamp(min=0)
    boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4)).masked_fill(~found[..., None], 0.0)
    scores = given[0] if given else scores.gather(1, indices).masked_fill(~found, 0.0)
    return boxes, scores, labels.gather(1, indices).masked_fill(~found, -1), count
