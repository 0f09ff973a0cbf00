"""From scores and boxes to detections: threshold, NMS within each class, the best of all classes."""

import numpy as np
import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.models.config import Model
from htc_fast.models.structures import may_wait
from htc_fast.ops.reference import detections as plain

LEAST = 1e-3  # of a score that decayed: mmcv's default


def detections(
    config: Model, logits: list[Tensor], deltas: Tensor, boxes: Tensor, valid: Tensor, image_sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The end of a cascade, with the suppression that the configuration names.

    logits   of the stages that count, each [N, R, classes + 1]
    deltas   [N, R, 4 | 4 * classes] of the last stage, and the boxes [N, R, 4] that went into it; valid [N, R] bool
    returns  as `ops.detections`: boxes [N, D, 4], scores [N, D], labels [N, D], count [N]
    """
    std = config.stages.delta_std[config.last_stage]
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
    if deltas.shape[2] == 4 or not may_wait(scores):
        return select(config, scores, plain.decoded(deltas, boxes, std, image_sizes, scores.shape[2]), valid)
    # Few of a thousand boxes' eighty scores count, and the others' boxes, each moved on its own, cost most of the time.
    scores, labels, deltas, boxes = _candidates(scores, deltas, boxes, valid, config.score_threshold)
    boxes = plain.decode_boxes(deltas, boxes, std, image_sizes)
    return plain.chosen(boxes, scores, labels, config.score_threshold, config.nms_iou, config.detections, _decay)


def select(
    config: Model, scores: Tensor, boxes: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best of all classes, from probabilities and where each class sees each box.

    scores   [N, R, classes];  boxes [N, R, 1 | classes, 4];  valid [N, R] bool, None: all are
    returns  as `ops.detections`
    source   Soft-NMS where the configuration says so, linear and with mmcv's least score of 1e-3; scores that decayed
             have to be above the configuration's threshold too, which mmdetection asks of them before alone
    """
    suppress = _decay if config.soft_nms else ops.batched_nms_padded
    return plain.best(scores, boxes, valid, config.score_threshold, config.nms_iou, config.detections, suppress)


def _decay(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int, score_threshold: float):
    """Soft-NMS whose scores are above the threshold before and after their decay, and at least `LEAST`."""
    # It keeps what is not below its limit: the float32 behind the threshold is the least that is above it.
    above = float(np.nextafter(np.float32(score_threshold), np.float32(np.inf)))
    return ops.soft_nms_padded(
        boxes, scores, labels, iou_threshold=iou_threshold, min_score=max(above, LEAST), max_output=limit
    )


def _candidates(
    scores: Tensor, deltas: Tensor, boxes: Tensor, valid: Tensor, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What scores [N, R, classes] above the threshold belong to, in their order; waits for the device.

    deltas   [N, R, 4 * classes];  boxes [N, R, 4];  valid [N, R]
    returns  scores [N, K], -inf behind an image's last, labels [N, K], deltas [N, K, 4] and boxes [N, K, 4]
    """
    classes = scores.shape[2]
    image, place = ((scores > score_threshold) & valid[..., None]).flatten(1).nonzero(as_tuple=True)
    counts = image.bincount(minlength=len(scores))
    slot = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    index = image.new_zeros(len(scores), int(counts.max().clamp(min=1)))
    found = scores.new_full(index.shape, -torch.inf)
    index[image, slot], found[image, slot] = place, scores.flatten(1)[image, place]
    row, number = index // classes, torch.arange(len(scores))[:, None]
    return found, index % classes, deltas.unflatten(2, (-1, 4)).flatten(1, 2)[number, index], boxes[number, row]
