"""mmcv's non-maximum suppressions, and how its boxes overlap.

`offset` 1 is for boxes that hold their last pixel: sides are x2 - x1 + 1. Thresholds are float32 numbers, as in mmcv.
"""

import torch
from torch import Tensor

from htc_fast import ops

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Drop boxes whose IoU with a better one is larger than the threshold.

    boxes    [K, 4];  scores [K]
    returns  [n] int64 indices, best first, equal scores as torch's sort leaves them
    """
    if boxes.numel() == 0:
        return boxes.new_zeros(0, dtype=torch.int64)
    # mmcv sorts so too: which of two equal boxes goes, and what a sampler draws then, stays the same.
    best = scores.sort(descending=True)
    return best.indices[ops.nms(_closed(boxes[best.indices], offset), best.values, _single(iou_threshold))]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the scores of boxes that overlap better ones.

    boxes          [K, 4];  scores [K]
    dets           [K, 5]  the first n rows are filled with boxes and what is left of their scores
    iou_threshold  from here on overlaps count, itself included; not for method 2
    min_score      boxes that fall below it are dropped, the best one never
    method         0: boxes that overlap lose all; 1: linear; 2: gaussian
    returns        [n] int64 indices, best first
    """
    if boxes.numel() == 0:
        return boxes.new_zeros(0, dtype=torch.int64)
    whole = _closed(boxes, offset)
    if method == NAIVE:
        kept = ops.nms(whole, scores, _before(iou_threshold))
        left = scores[kept]
        if min_score <= 0:  # what lost all its score is not below that
            lost = torch.ones_like(scores, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
            kept, left = torch.cat([kept, lost]), torch.cat([left, scores.new_zeros(len(lost))])
        good = left >= min_score
        kept, left = kept[good], left[good]
    else:
        kept, left = ops.soft_nms(
            whole,
            scores,
            torch.zeros_like(scores, dtype=torch.int64),
            method="linear" if method == LINEAR else "gaussian",
            iou_threshold=_single(iou_threshold),
            sigma=sigma,
            min_score=min_score,
        )
    if len(kept) == 0:
        kept = scores.argmax()[None]
        left = scores[kept]
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = left
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Put each box with the best one that it overlaps.

    dets     [K, 5]  boxes and scores
    returns  groups of indices, the box that stays first, the others by score
    """
    order = dets[:, 4].sort(descending=True, stable=True).indices
    boxes, limit = dets[order, :4], _single(iou_threshold)
    free = torch.ones_like(order, dtype=torch.bool)
    groups = []
    for place in range(len(order)):
        if not free[place]:
            continue
        overlaps = dets.new_zeros(1, len(order) - place - 1)
        bbox_overlaps(boxes[place : place + 1], boxes[place + 1 :], overlaps, 0, False, 0)
        taken = free[place + 1 :] & (overlaps[0] >= limit)
        free[place + 1 :] &= ~taken
        groups.append([int(order[place]), *order[place + 1 :][taken].tolist()])
    return groups


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fill `ious`.

    bboxes1  [K, 4];  bboxes2 [L, 4]
    ious     [K, L]; aligned: [K], row by row
    mode     0: over the union; 1: over the first box
    """
    first = bboxes1 if aligned else bboxes1[:, None]
    low, high = torch.maximum(first[..., :2], bboxes2[..., :2]), torch.minimum(first[..., 2:], bboxes2[..., 2:])
    shared = (high - low + offset).clamp(min=0).prod(dim=-1)
    areas = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        areas = areas + (bboxes2[..., 2:] - bboxes2[..., :2] + offset).prod(dim=-1) - shared
    ious.copy_(shared / areas)


def _closed(boxes: Tensor, offset: int) -> Tensor:
    return boxes if offset == 0 else torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)


def _single(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


def _before(number: float) -> float:
    """The float32 below a float32: what is larger than this is not smaller than that."""
    wide = torch.tensor(number, dtype=torch.float32)
    return torch.nextafter(wide, torch.tensor(-torch.inf)).item()


OPERATORS = {one.__name__: one for one in (nms, softnms, nms_match, bbox_overlaps)}
