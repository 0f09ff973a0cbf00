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
    classes = scores.shape[2]
    if deltas.shape[2] == 4:
        boxes = decode_boxes(deltas, boxes, std, image_sizes)[:, :, None].expand(-1, -1, classes, -1)
    else:
        boxes = decode_boxes(deltas.unflatten(2, (classes, 4)), boxes[:, :, None], std, image_sizes)
    if valid is not None:
        scores = scores.masked_fill(~valid[..., None], -torch.inf)
    boxes, scores = boxes.flatten(1, 2), scores.flatten(1)
    labels = torch.arange(classes, device=scores.device).repeat(deltas.shape[1])[None].expand(len(scores), -1)
    indices, count = suppress(boxes, scores, labels, iou_threshold, limit, score_threshold)
    if scores.shape[1] == 0:
        return boxes.new_zeros(*indices.shape, 4), scores.new_zeros(indices.shape), indices, count
    found, indices = indices >= 0, indices.clamp(min=0)
    boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4)).masked_fill(~found[..., None], 0.0)
    scores = scores.gather(1, indices).masked_fill(~found, 0.0)
    return boxes, scores, labels.gather(1, indices).masked_fill(~found, -1), count
