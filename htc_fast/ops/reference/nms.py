"""Non-maximum suppression: in order of score, a box goes if it overlaps a kept one of its class too much."""

import torch
from torch import Tensor


def pairwise_iou(boxes: Tensor) -> Tensor:
    """boxes [..., B, 4] -> IoU [..., B, B]; NaN where both are empty."""
    top_left = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    bottom_right = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return shared / (area[..., :, None] + area[..., None, :] - shared)


def survivors(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """boxes [N, B, 4], scores [N, B] (-inf: no candidate), idxs [N, B] -> order [N, B] by score, kept [N, B] in it."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    scores, idxs = scores.gather(1, order), idxs.gather(1, order)
    # In double, as torchvision does: a float32 IoU of 0.1 is above 0.1.
    conflict = (pairwise_iou(boxes).double() > iou_threshold) & (idxs[:, :, None] == idxs[:, None, :])
    kept = scores > -torch.inf
    for i in range(boxes.shape[1]):
        later = torch.arange(boxes.shape[1], device=boxes.device) > i
        kept = kept & ~(kept[:, i : i + 1] & conflict[:, i] & later)
    return order, kept


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """boxes [K, 4] -> kept indices, best first."""
    boxes, scores = boxes.float(), scores.float()
    # A score of -inf is a candidate here: the worst one.
    scores = scores.clamp(min=torch.finfo(torch.float32).min)
    order, kept = survivors(boxes[None], _candidates(boxes, scores)[None], idxs[None], iou_threshold)
    return order[0][kept[0]]


def batched_nms_padded(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_output: int, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """boxes [N, B, 4] -> indices [N, max_output] padded with -1, counts [N]; no shape depends on values."""
    boxes, scores = boxes.float(), scores.float()
    scores = _candidates(boxes, torch.where(scores > score_threshold, scores, -torch.inf))
    order, kept = survivors(boxes, scores, idxs, iou_threshold)
    # Kept ones move to the front in their order, the others behind.
    front = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    indices = torch.where(kept.gather(1, front), order.gather(1, front), -1)[:, :max_output]
    indices = torch.nn.functional.pad(indices, (0, max_output - indices.shape[1]), value=-1)
    return indices, (indices >= 0).sum(dim=1, dtype=torch.int32)


def _candidates(boxes: Tensor, scores: Tensor) -> Tensor:
    """Scores with -inf where a box is not finite or the score is NaN."""
    return torch.where(boxes.isfinite().all(dim=-1) & ~scores.isnan(), scores, -torch.inf)
