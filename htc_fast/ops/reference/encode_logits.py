"""Masks of the image from maps of logits: bilinear, columns first, edges clamped; then above the threshold."""

from collections.abc import Sequence

from torch import Tensor, arange, device, float32


def axis(low: float, high: float, pixels: int, where: device | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the centres of `pixels` pixels fall among the cells from low to high of a map.

    low, high  the region's ends in cells, whole or not
    returns    lower cell [pixels], upper cell [pixels], lower share [pixels], upper share [pixels]
    source     F.interpolate(mode="bilinear", align_corners=False), number for number where low and high are whole
    """
    first, last = int(low // 1), int(-(-high // 1)) - 1
    scale = Tensor([(high - low) / max(pixels, 1)]).to(where)
    at = (scale * (arange(pixels, device=where, dtype=float32) + 0.5) - 0.5 + (low - first)).clamp(min=0)
    cell = at.long().clamp(max=last - first)
    upper = (at - cell).clamp(max=1)
    return cell + first, (cell + 1).clamp(max=last - first) + first, 1 - upper, upper


def resized(maps: Tensor, height: int, width: int, crop: Sequence[float]) -> Tensor:
    """maps [K, h, w], crop x1, y1, x2, y2 in their cells -> [K, height, width] float32."""
    maps = maps.detach().float()
    lower, upper, low, high = axis(crop[0], crop[2], width, maps.device)
    wide = maps[:, :, lower] * low + maps[:, :, upper] * high
    lower, upper, low, high = axis(crop[1], crop[3], height, maps.device)
    return wide[:, lower] * low[:, None] + wide[:, upper] * high[:, None]


def encode_logits(logits: Tensor, height: int, width: int, threshold: float, crop: Sequence[float]) -> Tensor:
    """logits [K, h, w] -> the masks, bool [K, height, width]."""
    return resized(logits, height, width, crop) > threshold
