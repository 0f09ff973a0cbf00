"""Soft-NMS: overlapping boxes lose score instead of life.

Per class the best box is taken and every other one decays by its overlap with it; again with what is best then,
until nothing reaches `min_score`.
"""

import torch
from torch import Tensor


def overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """IoU of one box [4] with many [K, 4] -> [K]; 0 where both are empty."""
    top_left = torch.maximum(box[:2], boxes[:, :2])
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - top_left).clamp(min=0)
    shared = sides[:, 0] * sides[:, 1]
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return torch.where(shared > 0, shared / (area + areas - shared), 0.0)


def decay(iou: Tensor, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """What is left of a score after overlapping a better box by `iou`, as a factor."""
    if method == "linear":
        return torch.where(iou >= iou_threshold, 1 - iou, 1.0)
    return torch.exp(-(iou * iou) / sigma)


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
    """See `htc_fast.ops.soft_nms`."""
    boxes, scores = boxes.float(), scores.float().clone()
    scores[~(boxes.isfinite().all(dim=1) & scores.isfinite())] = -torch.inf
    picked: list = []
    picked_scores: list = []
    for label in idxs.unique():
        alive = (idxs == label).nonzero()[:, 0]
        while len(alive) and len(picked) < len(boxes):
            alive = alive[scores[alive] >= min_score]
            if len(alive) == 0:
                break
            best = alive[scores[alive].argmax()]
            picked.append(best)
            picked_scores.append(scores[best].clone())
            alive = alive[alive != best]
            scores[alive] *= decay(overlaps(boxes[best], boxes[alive]), method, iou_threshold, sigma)
    if not picked:
        return idxs.new_zeros(0, dtype=torch.int64), scores.new_zeros(0)
    indices, kept = torch.stack(picked), torch.stack(picked_scores)
    # By score, ties by index.
    by_index = indices.argsort()
    order = by_index[kept[by_index].argsort(descending=True, stable=True)][:max_output]
    return indices[order], kept[order]
