"""mmcv's RoIAlign: results go into tensors that the caller brings; the mean of a bin's samples, or the largest."""

from collections.abc import Iterator

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.ops import _backend

LARGEST, MEAN = 0, 1  # pool_mode
LOWEST = -10000.0  # where mmcv begins to look for the largest sample


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` with every box's bins.

    input               [N, C, H, W]
    rois                [K, 5]  image number, x1, y1, x2, y2
    output              [K, C, h, w]
    argmax_y, argmax_x  [K, C, h, w] for the largest of the samples: where it lies; -1: nowhere
    sampling_ratio      samples per bin and axis; 0: one per pixel that the bin spans
    pool_mode           1: their mean; 0: the largest
    """
    size = aligned_height, aligned_width
    if pool_mode == MEAN:
        output.copy_(ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    for number, (image, ys, xs) in enumerate(_samples(rois.to(wide), size, spatial_scale, sampling_ratio, aligned)):
        values = _interpolated(wide[image], ys.flatten(), xs.flatten())
        values = values.unflatten(2, xs.shape).unflatten(1, ys.shape).transpose(2, 3).flatten(3)
        if values.shape[3] == 0:
            output[number], argmax_y[number], argmax_x[number] = LOWEST, -1.0, -1.0
            continue
        largest, best = values.max(dim=3)
        y = ys[torch.arange(size[0], device=ys.device)[:, None], best // xs.shape[1]]
        x = xs[torch.arange(size[1], device=ys.device), best % xs.shape[1]]
        found = largest > LOWEST
        output[number] = largest.clamp(min=LOWEST)
        argmax_y[number], argmax_x[number] = torch.where(found, y, -1.0), torch.where(found, x, -1.0)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to `grad_input` [N, C, H, W] what `grad_output` [K, C, h, w] says of the map."""
    if pool_mode == MEAN:
        size = aligned_height, aligned_width
        grad_input += _gradient(grad_output, rois, grad_input, size, spatial_scale, sampling_ratio, aligned)
        return
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    flat = grad_input.view(-1)
    for weight, at in _corners(argmax_y.float(), argmax_x.float(), height, width):
        share = torch.where(argmax_y == -1, 0.0, grad_output * weight)
        flat.index_add_(0, (plane[:, :, None, None] * height * width + at).flatten(), share.flatten().to(flat.dtype))


def _gradient(grad: Tensor, rois: Tensor, like: Tensor, size, scale: float, ratio: int, aligned: bool) -> Tensor:
    """The mean's gradient; the kernels need no map for it, which the definition does."""
    backend = _backend.backend_for("multi_level_roi_align", grad)
    if backend == "reference":
        with torch.enable_grad():
            maps = torch.zeros_like(like).requires_grad_()
            out = ops.roi_align(maps, rois, size, scale, ratio, aligned)
        return torch.autograd.grad(out, maps, grad)[0]
    backward = _backend.library(backend).multi_level_roi_align_backward
    sides = [like.shape[0], *like.shape[2:]]
    return backward(grad, rois.detach(), sides, [scale], ratio, aligned, 1.0, False, 1.0, 1, True)[0]


def _samples(rois: Tensor, size, scale: float, ratio: int, aligned: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of every box: its image, and where its samples lie, rows [h, n] and columns [w, m] on the map."""
    shift = 0.5 if aligned else 0.0
    start = rois[:, 1:3] * scale - shift
    sides = rois[:, 3:5] * scale - shift - start
    if not aligned:
        sides = sides.clamp(min=1)
    bins = sides / sides.new_tensor([size[1], size[0]])
    counts = [[ratio] * 2] * len(rois) if ratio > 0 else bins.float().ceil().clamp(min=0).int().tolist()
    for image, (x, y), (wide, high), (across, down) in zip(rois[:, 0].int().tolist(), start, bins, counts):
        yield image, _along(y, high, size[0], down), _along(x, wide, size[1], across)


def _along(start: Tensor, step: Tensor, bins: int, count: int) -> Tensor:
    place, sample = (torch.arange(most, dtype=start.dtype, device=start.device) for most in (bins, count))
    return start + place[:, None] * step + (sample + 0.5) * step / max(count, 1)


def _interpolated(plane: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """The map [C, H, W] between its pixels, at every one of n rows and m columns: [C, n, m]."""
    rows, columns = torch.meshgrid(ys, xs, indexing="ij")
    flat = plane.flatten(1)
    corners = _corners(rows, columns, *plane.shape[1:])
    return sum(weight * flat[:, at.flatten()].unflatten(1, at.shape) for weight, at in corners)  # type: ignore


def _corners(ys: Tensor, xs: Tensor, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """The weights and flat places of the four pixels around each point; weights are 0 for points outside."""
    inside = (ys >= -1) & (ys <= height) & (xs >= -1) & (xs <= width)
    ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    top, left = ys.long(), xs.long()
    down, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    below, beside = ys - top, xs - left
    return [
        (torch.where(inside, vertical * horizontal, 0.0), row * width + column)
        for row, vertical in ((top, 1 - below), (down, below))
        for column, horizontal in ((left, 1 - beside), (right, beside))
    ]


OPERATORS = {one.__name__: one for one in (roi_align_forward, roi_align_backward)}
