"""Precise RoI pooling as two small matrices per RoI: rows x map x columns.

Bilinear interpolation gives every pixel a hat: 1 at the pixel, 0 one pixel away, linear in between. A bin's mean over
the interpolated map is separable, so each axis has a matrix [bins, length]: the mean of each pixel's hat over each bin.
"""

import torch
from torch import Tensor

from htc_fast.ops.reference.roi_align import check_images, level_of, numbered, used


def hat_integral(at: Tensor) -> Tensor:
    """The integral of the hat at 0, from the left up to `at`."""
    at = at.clamp(-1, 1)
    return 0.5 + at - at * at.abs() / 2


def axis_weights(low: Tensor, high: Tensor, scale: float, shift: float, bins: int, length: int) -> Tensor:
    """Weights [bins, length] of one axis, float64; zeros if the box has no extent.

    low, high  scalars in pixels of the image; edges are worked out in their type
    """
    size = (high - low) * scale
    if not 0 < size < torch.inf:
        return torch.zeros(bins, length, dtype=torch.float64, device=low.device)
    start, size = low * scale - shift, size / bins
    number = torch.arange(bins, device=low.device)
    begin, end = (start + number * size).double()[:, None], (start + (number + 1) * size).double()[:, None]
    pixel = torch.arange(length, device=low.device)
    extent = end - begin
    mean = (hat_integral(end - pixel) - hat_integral(begin - pixel)) / torch.where(extent > 0, extent, 1.0)
    # Far away rounding leaves a bin no extent: the map at one place.
    return torch.where(extent > 0, mean, (1 - (begin.detach() - pixel).abs()).clamp(min=0))


def pool_one(image: Tensor, box: Tensor, bins: tuple[int, int], scale: float, shift: float) -> Tensor:
    """image [C, H, W], box [4] -> [C, *bins]."""
    rows = axis_weights(box[1], box[3], scale, shift, bins[0], image.shape[1])
    columns = axis_weights(box[0], box[2], scale, shift, bins[1], image.shape[2])
    used_rows, used_columns = used(rows), used(columns)
    rows, columns = rows[:, used_rows].to(image.dtype), columns[:, used_columns].to(image.dtype)
    return rows @ image[:, used_rows, used_columns] @ columns.T


def pr_roi_pool(
    features: list[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: list[float],
    aligned: bool,
    finest_size: float,
) -> Tensor:
    """features: list of [N, C, H_l, W_l], rois [K, 5] or [N, R, 4] -> [K, C, *size]; 16-bit maps summed in float32."""
    rois = numbered(rois)
    wide = [one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for one in features]
    rounded = rois.detach().float()
    check_images(rounded, len(wide[0]), "pr_roi_pool")
    edges = rois.to(wide[0].dtype)
    nothing = wide[0].new_zeros(wide[0].shape[1], *size)
    levels = level_of(rounded[:, 1:], finest_size, len(features)).tolist()
    pooled = [
        pool_one(wide[level][int(roi[0])], edge[1:], size, scales[level], 0.5 if aligned else 0.0)
        if roi.isfinite().all()
        else nothing
        for level, roi, edge in zip(levels, rounded, edges)
    ]
    out = torch.stack(pooled) if pooled else wide[0].new_zeros(0, wide[0].shape[1], *size) + 0 * wide[0].sum()
    return out.to(features[0].dtype)
