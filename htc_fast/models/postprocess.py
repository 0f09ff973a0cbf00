"""From the cascade's outputs to detections: ensemble, thresholds, NMS per class."""

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.models.config import Model
from htc_fast.models.geometry import decode_boxes


def ensemble(logits: list[Tensor], averaged: str) -> Tensor:
    """The stages' class logits [N, R, classes + 1], averaged before or after the softmax -> scores [N, R, classes]."""
    every = torch.stack(logits).float()
    scores = every.mean(dim=0).softmax(dim=-1) if averaged == "logits" else every.softmax(dim=-1).mean(dim=0)
    return scores[..., :-1]


def select(
    config: Model, t: int, boxes: Tensor, deltas: Tensor, scores: Tensor, valid: Tensor, image_sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decode the last stage's boxes, suppress within each class, keep the best of all classes.

    boxes    [N, R, 4]  input of stage t;  deltas [N, R, 4 | 4 * classes];  scores [N, R, classes];  valid [N, R]
    returns  boxes [N, D, 4], scores [N, D], labels [N, D] (-1 where padded), count [N]
    """
    classes, std = scores.shape[2], config.stages.delta_std[t]
    if config.class_agnostic:
        boxes = decode_boxes(deltas, boxes, std, image_sizes)[:, :, None].expand(-1, -1, classes, -1)
    else:
        boxes = decode_boxes(deltas.unflatten(2, (-1, 4)), boxes[:, :, None], std, image_sizes)
    boxes, scores = boxes.flatten(1, 2), scores.masked_fill(~valid[..., None], -1.0).flatten(1)
    labels = torch.arange(classes, device=scores.device).repeat(valid.shape[1])[None].expand(len(scores), -1)
    indices, count = ops.batched_nms_padded(
        boxes, scores, labels, config.nms_iou, config.detections, config.score_threshold
    )
    found, indices = indices >= 0, indices.clamp(min=0)
    boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4)).masked_fill(~found[..., None], 0.0)
    scores = scores.gather(1, indices).masked_fill(~found, 0.0)
    return boxes, scores, labels.gather(1, indices).masked_fill(~found, -1), count


def pad_masks(masks: Tensor, labels: Tensor) -> Tensor:
    """masks [N, n, h, w] -> [N, D, h, w] for labels [N, D], zero where nothing was detected."""
    missing = labels.shape[1] - masks.shape[1]
    masks = torch.nn.functional.pad(masks, (0, 0, 0, 0, 0, missing)) if missing else masks
    return masks * (labels >= 0)[..., None, None]
