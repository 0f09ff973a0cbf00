"""RoIAlign as two small matrices per RoI: rows x map x columns.

The mean over bilinear samples of a bin is separable, so each axis has a matrix [bins, length] of weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def axis_weights(start: Tensor, extent: Tensor, bins: int, sampling_ratio: int, length: int) -> Tensor:
    """Weights [bins, length] of one axis: every bin's mean over its sample points.

    start, extent  scalars in pixels of the map
    """
    samples = sampling_ratio if sampling_ratio > 0 else int(torch.ceil(extent / bins))
    weights = start.new_zeros(bins, length)
    if samples < 1:
        return weights
    bin_number = torch.arange(bins, device=start.device)[:, None]
    sample = torch.arange(samples, device=start.device)[None]
    size = extent / bins
    at = (start + bin_number * size + (sample + 0.5) * size / samples).expand(bins, samples)
    inside = ((at >= -1) & (at <= length)).to(start.dtype)
    at = at.clamp(min=0, max=length - 1)
    low = at.floor()
    high, share = (low + 1).clamp(max=length - 1), at - low
    weights.scatter_add_(1, low.long(), inside * (1 - share) / samples)
    weights.scatter_add_(1, high.long(), inside * share / samples)
    return weights


def roi_align_one(image: Tensor, box: Tensor, bins: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """image [C, H, W], box [4] -> [C, *bins]."""
    box = box * scale - (0.5 if aligned else 0.0)
    extent = box[2:] - box[:2]
    if not aligned:
        extent = extent.clamp(min=1.0)
    rows = axis_weights(box[1], extent[1], bins[0], ratio, image.shape[1])
    columns = axis_weights(box[0], extent[0], bins[1], ratio, image.shape[2])
    used_rows, used_columns = _used(rows), _used(columns)
    rows, columns = rows[:, used_rows].to(image.dtype), columns[:, used_columns].to(image.dtype)
    return rows @ image[:, used_rows, used_columns] @ columns.T


def _used(weights: Tensor) -> slice:
    touched = (weights != 0).any(dim=0).nonzero()
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


def level_of(boxes: Tensor, finest: int, count: int, canonical_size: float, canonical_level: int) -> Tensor:
    """boxes [K, 4] -> index of the pyramid level [K]."""
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    finest_size = canonical_size / 2.0 ** (canonical_level - finest)
    return torch.log2(size / finest_size + 1e-6).floor().nan_to_num(0).clamp(0, count - 1).long()


def roi_align(input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """input [N, C, H, W], rois [K, 5] -> [K, C, *size]."""
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    out = [wide.new_zeros(wide.shape[1], *size)] * 0
    for roi in rois.to(wide.dtype if wide.dtype == torch.float64 else torch.float32):
        if not roi.isfinite().all():
            out.append(wide.new_zeros(wide.shape[1], *size))
        else:
            out.append(roi_align_one(wide[int(roi[0])], roi[1:], size, scale, ratio, aligned))
    if not out:
        return input.new_zeros(0, input.shape[1], *size) + 0 * input.sum()
    return torch.stack(out).to(input.dtype)


def multi_level_roi_align(
    features: list[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: list[float],
    finest: int,
    ratio: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: int,
    semantic: Tensor | None,
    semantic_scale: float,
    semantic_grid: int,
) -> Tensor:
    """features: list of [N, C, H_l, W_l], rois [K, 5] -> [K, C, *size]."""
    levels = level_of(rois[:, 1:].float(), finest, len(features), canonical_size, canonical_level).tolist()
    parts = [
        roi_align(features[level], roi[None], size, scales[level], ratio, aligned) for level, roi in zip(levels, rois)
    ]
    out = torch.cat(parts) if parts else features[0].new_zeros(0, features[0].shape[1], *size)
    if semantic is not None:
        grid = roi_align(semantic, rois, (semantic_grid, semantic_grid), semantic_scale, ratio, aligned)
        out = out + F.adaptive_avg_pool2d(grid, size).to(out.dtype)
    return out
