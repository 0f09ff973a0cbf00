"""Gradient of multi-level RoIAlign in Triton, scattered by atomic additions: not deterministic, to be compared with."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch, odd
from htc_fast.ops.triton.roi_align import REGISTERS, ROWS, block_sizes, programs
from htc_fast.ops.triton.taps import along, level_of, load_box, pick, size_of, tap, tap_range, window


@triton.jit
def add_bins(
    plane,  # the image's map: [H, W, C] float32
    given,  # [BLOCK_X, BLOCK_C] float32, the bins' gradients
    y,  # the row's samples: first coordinate, distance, how many, what bounds that for all rows; and the map's height
    x,  # the same for bins [BLOCK_X] along the row; and the map's width
    channels,  # C
    c,  # [BLOCK_C] channels of the tile
    wanted,  # [BLOCK_X] whether the bin exists
    TAPS: tl.constexpr,  # cells along x at once
):
    """Add a row of bins' gradients to every cell of one map that they were read from."""
    first_y, step_y, count_y, most_y, height = y
    first_x, step_x, count_x, most_x, width = x
    low_y, taps_y = tap_range(first_y, step_y, count_y, most_y, height)
    low_x, taps_x = tap_range(first_x, step_x, count_x, most_x, width)
    taps_x = tl.where(wanted, taps_x, 0)
    samples = tl.maximum(count_y, 1).to(tl.float32) * tl.maximum(count_x, 1).to(tl.float32)
    given = given * tl.div_rn(1.0, samples)[:, None]
    longest = tl.max(taps_x, axis=0)
    for top in range(0, taps_y, ROWS):
        rows, weight_rows = tap(top + tl.arange(0, ROWS), low_y, first_y, step_y, count_y, most_y, height)
        for left in range(0, longest, TAPS):
            j = left + tl.arange(0, TAPS)[:, None]
            columns, weight_x = tap(j, low_x[None, :], first_x[None, :], step_x, count_x[None, :], most_x, width)
            mask = (j < taps_x[None, :])[:, :, None] & (c < channels)[None, None, :]
            at_x = (columns.to(tl.int64) * channels)[:, :, None] + c[None, None, :]
            column = given[None, :, :] * weight_x[:, :, None]
            for i in range(0, tl.minimum(taps_y - top, ROWS)):
                lane = tl.full([1], i, tl.int32)
                at = (tl.gather(rows, lane, 0).to(tl.int64) * width * channels)[:, None, None] + at_x
                value = column * tl.gather(weight_rows, lane, 0)[:, None, None]
                tl.atomic_add(plane + at, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["per_image", "images", "sampling_ratio"])
def scatter(
    grads,  # of the levels, then of the semantic map if SEMANTIC: float32 zeros [N, H, W, C] each
    heights,  # of every map, as `launch.odd` passes numbers
    widths,
    scales,  # cells of every map per pixel
    rois,  # [K, 5] or [N, R, 4], float32
    grad,  # [K, BINS_Y, BINS_X, C]
    per_image,  # R
    images,  # N
    channels,  # C
    sampling_ratio,
    finest_size,
    BINS_Y: tl.constexpr,
    BINS_X: tl.constexpr,
    GRID_Y: tl.constexpr,  # bins of the semantic map's own grid,
    GRID_X: tl.constexpr,
    WIDE_Y: tl.constexpr,  # and how many of them an output bin averages at most
    WIDE_X: tl.constexpr,
    LEVELS: tl.constexpr,
    SEMANTIC: tl.constexpr,  # 0 or 1
    ALIGNED: tl.constexpr,
    HAS_IMAGE: tl.constexpr,  # whether rois are [K, 5]
    BLOCK_X: tl.constexpr,  # bins of a row per program,
    BLOCK_C: tl.constexpr,  # its channels,
    TAPS: tl.constexpr,  # and cells along x at once
):
    """One program: BLOCK_X bins of one row of one RoI, for BLOCK_C channels, as `roi_align.forward` has it."""
    program = tl.program_id(0)
    blocks_c = tl.cdiv(channels, BLOCK_C)
    blocks_x: tl.constexpr = (BINS_X + BLOCK_X - 1) // BLOCK_X
    c = (program % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = program // blocks_c
    p_x = (rest % blocks_x) * BLOCK_X + tl.arange(0, BLOCK_X)
    rest = rest // blocks_x
    p_y = rest % BINS_Y
    k = (rest // BINS_Y).to(tl.int64)
    image, x1, y1, x2, y2, good = load_box(rois, k, per_image, images, HAS_IMAGE)
    if good:
        level = level_of(x1, y1, x2, y2, finest_size, LEVELS)
        at = ((k * BINS_Y + p_y) * BINS_X + p_x[:, None]) * channels + c[None, :]
        inside = (p_x < BINS_X)[:, None] & (c < channels)[None, :]
        given = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        for which in range(0, 1 + SEMANTIC):
            m = tl.where(which == 0, level, LEVELS)
            grid_y, grid_x = tl.where(which == 0, BINS_Y, GRID_Y), tl.where(which == 0, BINS_X, GRID_X)
            box_y = along(y1, y2, pick(scales, m), sampling_ratio, grid_y, ALIGNED)
            box_x = along(x1, x2, pick(scales, m), sampling_ratio, grid_x, ALIGNED)
            most_y = box_y[2] * tl.where(which == 0, 1, WIDE_Y)
            most_x = box_x[2] * tl.where(which == 0, 1, WIDE_X)
            height, width = size_of(heights, m), size_of(widths, m)
            first_y, count_y = window(p_y, box_y[0], box_y[1], box_y[2], BINS_Y, grid_y)
            first_x, count_x = window(p_x, box_x[0], box_x[1], box_x[2], BINS_X, grid_x)
            plane = pick(grads, m) + image.to(tl.int64) * height * width * channels
            y, x = (first_y, box_y[3], count_y, most_y, height), (first_x, box_x[3], count_x, most_x, width)
            add_bins(plane, given, y, x, channels, c, p_x < BINS_X, TAPS)


def scattered(
    grad: Tensor,
    rois: Tensor,
    images: int,
    heights: tuple[int, ...],
    widths: tuple[int, ...],
    scales: tuple[float, ...],
    sampling_ratio: int,
    finest_size: float,
    common: dict[str, int],
) -> list[Tensor]:
    """Gradients [N, H, W, C] of the maps from grad [K, h, w, C]; common: arguments that `gather` has too."""
    count, out_h, out_w, channels = grad.shape
    grads = [
        torch.zeros(images, height, width, channels, dtype=torch.float32, device=grad.device)
        for height, width in zip(heights, widths)
    ]
    sizes = block_sizes(out_w, channels, 4)
    if out_w > sizes["BLOCK_X"]:  # finding the bin as well takes more than the limit leaves on sm_80
        sizes["maxnreg"] = max(136, REGISTERS)
    grid, maps = programs(count, out_h, out_w, channels, sizes), (tuple(grads), odd(heights), odd(widths), scales)
    numbers = rois.shape[-2], images, channels, sampling_ratio, finest_size
    semantic = len(heights) - common["LEVELS"]
    launch(scatter, grid, grad.device, *maps, rois, grad, *numbers, **common, SEMANTIC=semantic, **sizes)
    return [one.to(grad.dtype) for one in grads]
