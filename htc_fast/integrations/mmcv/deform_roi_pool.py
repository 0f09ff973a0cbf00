"""mmcv's deformable RoI pooling: RoIAlign whose bins are shifted, each by an offset of its own.

A bin is a RoI of one bin, so that RoIAlign itself does the work; the offsets' gradient is written out.
"""

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.integrations.mmcv.roi_align import MEAN, roi_align_backward

BINS = 1024  # at a time, for the offsets' gradient


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill `output`.

    input   [N, C, H, W]
    rois    [K, 5]  image number, x1, y1, x2, y2
    offset  [K, 2, h, w]  across and down, in sides of the box over gamma; or empty: none
    output  [K, C, h, w]; a bin whose side is a whole number of pixels may take one sample more than in mmcv
    """
    bins = _bins(rois, offset, (pooled_height, pooled_width), gamma)
    found = ops.roi_align(input, bins, 1, spatial_scale, sampling_ratio, True)
    output.copy_(found.view(len(rois), pooled_height, pooled_width, -1).permute(0, 3, 1, 2))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add to `grad_input` [N, C, H, W] and `grad_offset` [K, 2, h, w] what `grad_output` [K, C, h, w] says."""
    size = pooled_height, pooled_width
    bins = _bins(rois, offset, size, gamma)
    grads = grad_output.permute(0, 2, 3, 1).flatten(0, 2)
    none = input.new_zeros(0)
    numbers = 1, 1, spatial_scale, sampling_ratio, MEAN, True
    roi_align_backward(grads[..., None, None].contiguous(), bins, none, none, grad_input, *numbers)
    if offset.numel() == 0:
        return
    places = input.permute(0, 2, 3, 1).contiguous()
    slopes = [
        _slopes(places, some, grad, spatial_scale, sampling_ratio)
        for some, grad in zip(bins.split(BINS), grads.split(BINS))
    ]
    sides = (rois[:, 3:5] - rois[:, 1:3]) * spatial_scale * gamma
    grad_offset += torch.cat(slopes).view(-1, *size, 2).permute(0, 3, 1, 2) * sides[:, :, None, None]


def _bins(rois: Tensor, offset: Tensor, size: tuple[int, int], gamma: float) -> Tensor:
    """Every bin as a RoI: [K * h * w, 5]."""
    sides = (rois[:, 3:5] - rois[:, 1:3])[:, None, None]
    steps = sides / sides.new_tensor([size[1], size[0]])
    rows, columns = (torch.arange(one, dtype=rois.dtype, device=rois.device) for one in size)
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2)
    start = rois[:, None, None, 1:3] + place * steps
    if offset.numel():
        start = start + gamma * sides * offset.permute(0, 2, 3, 1)
    number = rois[:, None, None, :1].expand(-1, *size, -1)
    return torch.cat([number, start, start + steps], dim=3).flatten(0, 2)


def _slopes(places: Tensor, bins: Tensor, grads: Tensor, scale: float, ratio: int) -> Tensor:
    """How the mean over a bin's samples, times its gradient, moves as the bin goes across and down.

    places   [N, H, W, C];  bins [B, 5];  grads [B, C]
    returns  [B, 2]; as in mmcv, the slope between four pixels goes on outside the map, up to a pixel away
    """
    height, width = places.shape[1:3]
    number, start, sides = bins[:, :1].long(), bins[:, 1:3] * scale - 0.5, (bins[:, 3:5] - bins[:, 1:3]) * scale
    counts = sides.ceil().clamp(min=0) if ratio <= 0 else torch.full_like(sides, ratio)
    x, y = (_samples(*one) for one in zip(start.T, sides.T, counts.T))
    x, y = x[:, None].expand(-1, y.shape[1], -1).flatten(1), y[:, :, None].expand(-1, -1, x.shape[1]).flatten(1)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    top, left = y.nan_to_num(0).clamp(0, height - 1).long(), x.nan_to_num(0).clamp(0, width - 1).long()
    down, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    corners = ((row, column) for row in (top, down) for column in (left, right))
    a, b, c, d = ((places[number, row, column] @ grads[:, :, None])[..., 0] for row, column in corners)
    across = (d - c) * (y - top) + (b - a) * (down - y)
    along = (d - b) * (x - left) + (c - a) * (right - x)
    each = counts.prod(dim=1).clamp(min=1)
    return torch.stack([torch.where(inside, one, 0.0).sum(dim=1) / each for one in (across, along)], dim=1)


def _samples(start: Tensor, side: Tensor, count: Tensor) -> Tensor:
    """Along an axis: [B, n], n of the most; what is not a bin's own is NaN."""
    sample = torch.arange(max(int(count.max()), 1), dtype=start.dtype, device=start.device)
    at = start[:, None] + (sample + 0.5) * (side / count.clamp(min=1))[:, None]
    return torch.where(sample < count[:, None], at, torch.nan)


OPERATORS = {one.__name__: one for one in (deform_roi_pool_forward, deform_roi_pool_backward)}
