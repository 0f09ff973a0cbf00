"""From scores and boxes to detections: threshold, NMS within each class, the best of all classes."""

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.models.config import Model
from htc_fast.ops.reference import detections as plain


def detections(
    config: Model, logits: list[Tensor], deltas: Tensor, boxes: Tensor, valid: Tensor, image_sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The end of a cascade, with the suppression that the configuration names.

    logits   of the stages that count, each [N, R, classes + 1]
    deltas   [N, R, 4 | 4 * classes] of the last stage, and the boxes [N, R, 4] that went into it; valid [N, R] bool
    returns  as `ops.detections`: boxes [N, D, 4], scores [N, D], labels [N, D], count [N]
    """
    std = config.stages.delta_std[(config.test_stage or len(config.stages.match_iou)) - 1]
    if not config.soft_nms:
        return ops.detections(
            logits,
            deltas,
            boxes,
            valid,
            image_sizes,
            std=std,
            score_average=config.score_average,
            score_threshold=config.score_threshold,
            iou_threshold=config.nms_iou,
            limit=config.detections,
        )
    scores = plain.ensemble(logits, config.score_average == "logits")
    return select(config, scores, plain.decoded(deltas, boxes, std, image_sizes, scores.shape[2]), valid)


def select(
    config: Model, scores: Tensor, boxes: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best of all classes, from probabilities and where each class sees each box.

    scores   [N, R, classes];  boxes [N, R, 1 | classes, 4];  valid [N, R] bool, None: all are
    returns  as `ops.detections`
    source   Soft-NMS with mmcv's options, where the configuration says so
    """
    suppress = _decay if config.soft_nms else ops.batched_nms_padded
    return plain.best(scores, boxes, valid, config.score_threshold, config.nms_iou, config.detections, suppress)


def _decay(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int, score_threshold: float):
    scores = torch.where(scores > score_threshold, scores, -torch.inf)
    return ops.soft_nms_padded(
        boxes, scores, labels, iou_threshold=iou_threshold, min_score=max(score_threshold, 1e-3), max_output=limit
    )
