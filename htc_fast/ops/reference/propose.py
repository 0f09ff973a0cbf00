"""Proposals: per level the best anchors, moved by their deltas, non-maximum suppression, the best of all levels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference import exact, nms
from htc_fast.ops.reference.boxes import decode_boxes, row


def propose(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    anchors: Sequence[float],
    strides: Sequence[float],
    per_level: int,
    limit: int,
    iou_threshold: float,
    min_size: float,
    delta_std: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """anchors: x1, y1, x2, y2 of every level's A; strides: down, across of every level."""
    boxes, logits, levels = candidates(
        objectness, deltas, image_sizes, anchors, strides, per_level, min_size, delta_std
    )
    indices, _ = nms.batched_nms_padded(boxes, logits, levels, iou_threshold, limit, -torch.inf)
    return chosen(boxes, logits, indices)


def candidates(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    anchors: Sequence[float],
    strides: Sequence[float],
    per_level: int,
    min_size: float,
    delta_std: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [N, K, 4], logits [N, K], levels [N, K]: level after level, best first; a logit of -inf is no candidate."""
    boxes, logits, levels, first = [], [], [], 0
    whole = torch.empty(0, device=image_sizes.device)  # the type and place of what is filled in
    for number, (objects, offsets) in enumerate(zip(objectness, deltas)):
        images, each, height, width = objects.shape
        base = row(anchors[4 * first : 4 * (first + each)], whole).view(-1, 4)
        grid = level_anchors(height, width, base, *strides[2 * number : 2 * number + 2])
        first += each
        level_logits = objects.permute(0, 2, 3, 1).flatten(1).float()
        level_logits = level_logits.masked_fill(~level_logits.isfinite(), -torch.inf)
        order = level_logits.argsort(dim=1, descending=True, stable=True)[:, :per_level]
        moves = offsets.permute(0, 2, 3, 1).reshape(images, height * width * each, 4)
        moves = moves.gather(1, order[..., None].expand(-1, -1, 4)).float() * row(delta_std, whole)
        level_boxes = decode_boxes(moves, grid[order], (1.0, 1.0, 1.0, 1.0), image_sizes)
        real = moves.isfinite().all(dim=2) & (level_boxes[..., 2:] - level_boxes[..., :2] > min_size).all(dim=2)
        boxes.append(level_boxes)
        logits.append(level_logits.gather(1, order).masked_fill(~real, -torch.inf))
        levels.append(torch.full_like(order, number))
    return torch.cat(boxes, dim=1), torch.cat(logits, dim=1), torch.cat(levels, dim=1)


def level_anchors(height: int, width: int, base: Tensor, down: float, across: float) -> Tensor:
    """base [A, 4] around every pixel -> [h * w * A, 4], row by row, a pixel's anchors side by side."""
    y, x = (
        torch.arange(n, device=base.device, dtype=torch.float32) * step for n, step in ((height, down), (width, across))
    )
    y, x = torch.meshgrid(y, x, indexing="ij")
    return (torch.stack([x, y, x, y], dim=2)[:, :, None] + base).reshape(-1, 4)


def chosen(boxes: Tensor, logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What indices [N, P], padded with -1, choose: boxes [N, P, 4], probabilities [N, P], valid [N, P]."""
    valid = indices >= 0
    if boxes.shape[1] == 0:
        return boxes.new_zeros(*indices.shape, 4), logits.new_zeros(indices.shape), valid
    indices = indices.clamp(min=0)
    boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4)).masked_fill(~valid[..., None], 0.0)
    return boxes, exact.sigmoid(logits.gather(1, indices)).masked_fill(~valid, 0.0), valid
