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
    if samples < 1 or length < 1:
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
    used_rows, used_columns = used(rows), used(columns)
    rows, columns = rows[:, used_rows].to(image.dtype), columns[:, used_columns].to(image.dtype)
    return rows @ image[:, used_rows, used_columns] @ columns.T


def used(weights: Tensor) -> slice:
    """The pixels that any bin reads."""
    touched = (weights != 0).any(dim=0).nonzero()
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


def level_of(boxes: Tensor, finest_size: float, count: int) -> Tensor:
    """boxes [K, 4] -> index of the pyramid level [K]; those of side finest_size to twice that read level 0."""
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    # A number on the host would be divided by as a product with its reciprocal on a GPU. Compared with edges, as every
    # kernel does: a logarithm rounds boxes just below an edge to the next level.
    size = size / torch.full_like(size, finest_size) + 1e-6
    return (size[:, None] >= 2.0 ** torch.arange(1, count, device=size.device)).sum(dim=1)


def roi_align(input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """input [N, C, H, W], rois [K, 5] -> [K, C, *size]; geometry in float32, 16-bit maps summed in float32."""
    rois = rois.detach().float()
    check_images(rois, len(input))
    wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    nothing = wide.new_zeros(wide.shape[1], *size)
    bins = [
        roi_align_one(wide[int(roi[0])], roi[1:], size, scale, ratio, aligned) if roi.isfinite().all() else nothing
        for roi in rois
    ]
    out = torch.stack(bins) if bins else wide.new_zeros(0, wide.shape[1], *size) + 0 * wide.sum()
    return out.to(input.dtype)


def check_images(rois: Tensor, images: int, op: str = "roi_align") -> None:
    """raises  RuntimeError if a RoI names an image that is not there; NaN names none"""
    number = rois[:, 0][~rois[:, 0].isnan()]
    if len(number) and not (number.min() >= 0 and number.max() < images):
        raise RuntimeError(
            f"{op}: rois name images {number.min():g} to {number.max():g}, but there are {images} images."
        )


def numbered(rois: Tensor) -> Tensor:
    """[K, 5] as it is; [N, R, 4] with the image's number before each box."""
    if rois.dim() == 2:
        return rois
    number = torch.arange(len(rois), device=rois.device, dtype=rois.dtype).repeat_interleave(rois.shape[1])
    return torch.cat([number[:, None], rois.flatten(0, 1)], dim=1)


def multi_level_roi_align(
    features: list[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: list[float],
    ratio: int,
    aligned: bool,
    finest_size: float,
    semantic: Tensor | None,
    semantic_scale: float,
    semantic_grid: int,
) -> Tensor:
    """features: list of [N, C, H_l, W_l], rois [K, 5] or [N, R, 4] -> [K, C, *size]."""
    rois = numbered(rois)
    levels = level_of(rois[:, 1:].float(), finest_size, len(features)).tolist()
    parts = [
        roi_align(features[level], roi[None], size, scales[level], ratio, aligned) for level, roi in zip(levels, rois)
    ]
    out = torch.cat(parts) if parts else roi_align(features[0], rois, size, scales[0], ratio, aligned)
    if semantic is not None:
        grid = roi_align(semantic, rois, (semantic_grid, semantic_grid), semantic_scale, ratio, aligned)
        out = out + F.adaptive_avg_pool2d(grid, size)
    return out
