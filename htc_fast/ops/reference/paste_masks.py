"""Put each box's small mask back into the image: bilinear at pixel centres, columns first, zeros outside the mask."""

import torch
from torch import Tensor


def axis(low: Tensor, high: Tensor, cells: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """low, high [K] -> lower cell [K, pixels] (counted from 1, 0 and cells + 1 are outside), upper share, inside."""
    centre = torch.arange(pixels, device=low.device, dtype=torch.float32)[None] + 0.5
    low, high = low[:, None], high[:, None]
    unit = (centre - low) / (high - low) * 2 - 1
    at = ((unit + 1) * cells - 1) * 0.5
    inside = (centre >= low) & (centre <= high) & (high > low)
    at = torch.where(inside, at, 0.0)
    return at.floor().long().clamp(-1, cells - 1) + 1, at - at.floor(), inside


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """masks [K, h, w], boxes [K, 4] -> bool [K, height, width]."""
    masks, boxes = masks.detach().float(), boxes.detach().float()
    boxes = torch.where(boxes.isfinite().all(dim=1, keepdim=True), boxes, 0.0)
    cells = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    column, share, inside_x = axis(boxes[:, 0], boxes[:, 2], masks.shape[2], width)
    column, share = column[:, None].expand(-1, cells.shape[1], -1), share[:, None]
    wide = cells.gather(2, column) * (1 - share) + cells.gather(2, column + 1) * share
    row, share, inside_y = axis(boxes[:, 1], boxes[:, 3], masks.shape[1], height)
    row, share = row[:, :, None].expand(-1, -1, width), share[:, :, None]
    value = wide.gather(1, row) * (1 - share) + wide.gather(1, row + 1) * share
    return (value >= threshold) & inside_y[:, :, None] & inside_x[:, None]
