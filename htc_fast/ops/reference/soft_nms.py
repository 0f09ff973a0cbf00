"""Soft-NMS: overlapping boxes lose score instead of life.

The best box is taken and every other one of its class decays by its overlap with it; again with what is best then,
until nothing reaches `min_score`.
"""

import torch
from torch import Tensor

from htc_fast.ops.reference import exact


def overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """IoU of one box [..., 1, 4] with many [..., B, 4] -> [..., B]; 0 where both are empty."""
    sides = (torch.minimum(box[..., 2:], boxes[..., 2:]) - torch.maximum(box[..., :2], boxes[..., :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area, areas = ((one[..., 2] - one[..., 0]) * (one[..., 3] - one[..., 1]) for one in (box, boxes))
    return torch.where(shared > 0, shared / (area + areas - shared), 0.0)


def decay(iou: Tensor, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """What is left of a score after overlapping a better box by `iou`, as a factor."""
    if method == "linear":
        return torch.where(iou >= iou_threshold, 1 - iou, 1.0)
    return exact.exponential(-(iou * iou) / sigma)


def soft_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    max_output: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [N, B, 4] -> indices [N, max_output] padded with -1, their scores with 0, counts [N]; no shape depends on
    values.
    """
    boxes, scores = boxes.float(), scores.float()
    images, count = scores.shape
    at = torch.arange(count, device=boxes.device).expand(images, count)
    scores = torch.where(boxes.isfinite().all(dim=2) & scores.isfinite(), scores, -torch.inf)
    indices = at.new_full((images, max_output), -1)
    decayed = scores.new_zeros(images, max_output)
    for place in range(min(max_output, count)):
        scores = torch.where(scores >= min_score, scores, -torch.inf)
        best = scores.amax(dim=1, keepdim=True)
        found = best > -torch.inf
        # The first of equal ones.
        pick = torch.where(scores == best, at, count).amin(dim=1, keepdim=True)
        indices[:, place : place + 1] = torch.where(found, pick, -1)
        decayed[:, place : place + 1] = torch.where(found, best, 0.0)
        iou = overlaps(boxes.gather(1, pick[..., None].expand(-1, -1, 4)), boxes)
        less = scores * decay(iou, method, iou_threshold, sigma)
        scores = torch.where(idxs == idxs.gather(1, pick), less, scores)
        scores = torch.where(at == pick, -torch.inf, scores)
    return indices, decayed, (indices >= 0).sum(dim=1, dtype=torch.int32)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    max_output: int,
) -> tuple[Tensor, Tensor]:
    """boxes [K, 4] -> kept indices and their decayed scores, best first."""
    options = method, iou_threshold, sigma, min_score, max_output
    indices, decayed, _ = soft_nms_padded(boxes[None], scores[None], idxs[None], *options)
    kept = indices[0] >= 0
    return indices[0][kept], decayed[0][kept]
