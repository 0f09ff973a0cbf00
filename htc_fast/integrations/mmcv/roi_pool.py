"""mmcv's RoIPool: the largest pixel of every bin. Boxes hold their last pixel (+1), and are not rounded first."""

import torch
from torch import Tensor


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill `output` and `argmax`.

    input   [N, C, H, W]
    rois    [K, 5]  image number, x1, y1, x2, y2
    output  [K, C, h, w]  0 for bins without a pixel
    argmax  [K, C, h, w] int32: place of the pixel in its plane; -1: none
    """
    lowest = torch.finfo(input.dtype).min
    rows = _ranges(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, input.shape[2])
    columns = _ranges(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, input.shape[3])
    wrong = ((rois[:, 3:5] + 1) * spatial_scale <= rois[:, 1:3] * spatial_scale).any(dim=1).tolist()
    for number, image in enumerate(rois[:, 0].int().tolist()):
        if wrong[number]:
            continue
        (ys, in_y), (xs, in_x) = _pixels(rows[number], input.shape[2]), _pixels(columns[number], input.shape[3])
        values = input[image][:, ys.flatten()][:, :, xs.flatten()].unflatten(2, xs.shape).unflatten(1, ys.shape)
        inside = in_y[:, :, None, None] & in_x
        values = torch.where(inside & (values > lowest), values, lowest).transpose(2, 3).flatten(3)
        at = (ys[:, :, None, None] * input.shape[3] + xs).transpose(1, 2).flatten(2)
        best = values.amax(dim=3)
        # The first of equal ones, row by row.
        first = torch.where(values == best[..., None], at, input.shape[2] * input.shape[3]).amin(dim=3)
        argmax[number] = torch.where(best > lowest, first, -1)
        output[number] = torch.where(inside.transpose(1, 2).flatten(2).any(dim=2), best, 0.0)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add to `grad_input` [N, C, H, W], at the pixel that each bin took, what `grad_output` [K, C, h, w] says."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    places = plane[:, :, None, None] * height * width + argmax.clamp(min=0)
    shares = torch.where(argmax >= 0, grad_output, 0.0)
    grad_input.view(-1).index_add_(0, places.flatten(), shares.flatten().to(grad_input.dtype))


def _ranges(low: Tensor, high: Tensor, scale: float, bins: int, side: int) -> Tensor:
    """First pixel of each bin and the one after its last: [K, bins, 2]."""
    start, end = low * scale, (high + 1) * scale
    step = (end - start) / bins
    place = torch.arange(bins, device=low.device)
    first = (place * step[:, None] + start[:, None]).floor()
    last = ((place + 1) * step[:, None] + start[:, None]).ceil()
    return torch.stack([first, last], dim=2).clamp(0, side).long()


def _pixels(ranges: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Every bin's pixels [bins, n], n those of the largest bin, and which of them are its own."""
    most = max(int((ranges[:, 1] - ranges[:, 0]).max()), 1)
    pixels = ranges[:, :1] + torch.arange(most, device=ranges.device)
    return pixels.clamp(max=side - 1), pixels < ranges[:, 1:]


OPERATORS = {one.__name__: one for one in (roi_pool_forward, roi_pool_backward)}
