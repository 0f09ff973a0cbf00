"""Non-maximum suppression, box by box."""

import torch
from torch import Tensor

from htc_fast.ops.reference.soft_nms import overlaps


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, limit: int | None = None) -> Tensor:
    boxes, scores = boxes.float(), scores.float()
    good = boxes.isfinite().all(dim=1) & ~scores.isnan() & (scores > -torch.inf)
    order = scores.argsort(descending=True, stable=True)
    order = order[good[order]]
    kept = []
    while len(order) and (limit is None or len(kept) < limit):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[~((overlaps(boxes[best], boxes[order]) > iou_threshold) & (idxs[order] == idxs[best]))]
    return torch.stack(kept) if kept else idxs.new_zeros(0, dtype=torch.int64)


def batched_nms_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold=-torch.inf):
    out = torch.full((len(boxes), max_output), -1, dtype=torch.int64, device=boxes.device)
    counts = torch.zeros(len(boxes), dtype=torch.int32, device=boxes.device)
    for n in range(len(boxes)):
        score = scores[n].masked_fill(~(scores[n] > score_threshold), -torch.inf)
        kept = batched_nms(boxes[n], score, idxs[n], iou_threshold, max_output)
        out[n, : len(kept)] = kept
        counts[n] = len(kept)
    return out, counts
