"""RoIAlign over all levels of a pyramid and the semantic map in one launch, in Triton.

One program makes one row of bins for a block of channels: loads run along the channels, 128 bits at a time, and every
cell that a bin touches is read once, with the weights of all samples that hit it summed up first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import channels_last, check_floats, launch, odd, power_of_two, widest_window
from htc_fast.ops.triton.taps import along, level_of, load_box, pick, size_of, tap, tap_range, window
from htc_fast.ops.triton.tiles import OLD_COMPILER

ROWS = tl.constexpr(16)

REGISTERS = 168 if OLD_COMPILER else 128  # of a thread


@triton.jit
def pool(
    total,  # [BLOCK_X, BLOCK_C] float32, the sum so far
    plane,  # the image's map: [H, W, C] with the two strides
    strides,  # of the map's rows and cells
    y,  # the row's samples: first coordinate, distance, how many, what bounds that for all rows; and the map's height
    x,  # the same for bins [BLOCK_X] along the row; and the map's width
    channel,  # [1, 1, BLOCK_C] channels and whether they exist
    wanted,  # [BLOCK_X] whether the bin exists
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TAPS: tl.constexpr,  # cells along x at once
    LARGE: tl.constexpr,  # whether offsets in a map exceed 32 bits
):
    """Add a row of one map's bins to total."""
    first_y, step_y, count_y, most_y, height = y
    first_x, step_x, count_x, most_x, width = x
    low_y, taps_y = tap_range(first_y, step_y, count_y, most_y, height)
    low_x, taps_x = tap_range(first_x, step_x, count_x, most_x, width)
    taps_x = tl.where(wanted, taps_x, 0)
    samples = tl.maximum(count_y, 1).to(tl.float32) * tl.maximum(count_x, 1).to(tl.float32)
    share = tl.div_rn(1.0, samples)[None, :]
    longest = tl.max(taps_x, axis=0)
    # Rows' weights are made side by side, one per lane, and handed round by shuffles.
    for top in range(0, taps_y, ROWS):
        rows, weight_rows = tap(top + tl.arange(0, ROWS), low_y, first_y, step_y, count_y, most_y, height)
        for left in range(0, longest, TAPS):
            j = left + tl.arange(0, TAPS)[:, None]
            columns, weight_x = tap(j, low_x[None, :], first_x[None, :], step_x, count_x[None, :], most_x, width)
            mask = (j < taps_x[None, :])[:, :, None] & channel[1]
            at_x = ((columns.to(tl.int64) if LARGE else columns) * strides[1])[:, :, None]
            column = tl.zeros([TAPS, BLOCK_X, BLOCK_C], tl.float32)
            for i in range(0, tl.minimum(taps_y - top, ROWS)):
                lane = tl.full([1], i, tl.int32)
                row = tl.gather(rows, lane, 0)[:, None, None]
                at = (row.to(tl.int64) if LARGE else row) * strides[0] + at_x
                value = tl.load(plane + at + channel[0], mask=mask, other=0.0).to(tl.float32)
                column = tl.fma(value, tl.gather(weight_rows, lane, 0)[:, None, None], column)
            total += tl.sum(column * (weight_x * share)[:, :, None], axis=0)
    return total


@triton.jit(do_not_specialize=["per_image", "images", "sampling_ratio"])
def forward(
    maps,  # the levels, then the semantic map if SEMANTIC: [N, H, W, C] each, side by side along C, any strides else
    heights,  # of every map, as `launch.odd` passes numbers
    widths,
    image_strides,  # in elements, of every map
    row_strides,
    cell_strides,
    scales,  # cells of every map per pixel
    rois,  # [K, 5] image, x1, y1, x2, y2; or [N, R, 4]; float32
    out,  # [K, BINS_Y, BINS_X, C] contiguous
    per_image,  # R
    images,  # N
    channels,  # C
    sampling_ratio,  # samples per bin and axis; <= 0: as many as cells
    finest_size,  # sides below twice this many pixels read level 0
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
    LARGE: tl.constexpr,  # whether offsets in a map exceed 32 bits
):
    """One program: BLOCK_X bins of one row of one RoI, for BLOCK_C channels."""
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
    channel = (c[None, None, :], (c < channels)[None, None, :])
    total = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    if good:
        level = level_of(x1, y1, x2, y2, finest_size, LEVELS)
        # A loop, not two copies of the code: the second map costs no registers.
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
            plane = pick(maps, m) + image.to(tl.int64) * pick(image_strides, m)
            strides = (pick(row_strides, m), pick(cell_strides, m))
            y, x = (first_y, box_y[3], count_y, most_y, height), (first_x, box_x[3], count_x, most_x, width)
            total = pool(total, plane, strides, y, x, channel, p_x < BINS_X, BLOCK_X, BLOCK_C, TAPS, LARGE)
    at = ((k * BINS_Y + p_y) * BINS_X + p_x[:, None]) * channels + c[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(p_x < BINS_X)[:, None] & (c < channels)[None, :])


def block_sizes(bins_x: int, channels: int, element_size: int) -> dict[str, int]:
    """A program's tile: 2 taps x 8 bins x channels, 16 bytes of channels per thread and tap.

    With the limit on registers named, ptxas stops spilling to get below one of its own; 3.6's needs more.
    """
    block_x = power_of_two(bins_x, 8, 1)
    block_c = power_of_two(channels, 512 // element_size)
    warps = max(1, 2 * block_x * block_c * element_size // 1024)
    return {"BLOCK_X": block_x, "BLOCK_C": block_c, "TAPS": 2, "num_warps": warps, "maxnreg": REGISTERS}


def programs(count: int, out_h: int, out_w: int, channels: int, sizes: dict[str, int]) -> int:
    return count * out_h * triton.cdiv(out_w, sizes["BLOCK_X"]) * triton.cdiv(channels, sizes["BLOCK_C"])


def bins_and_grid(out_h: int, out_w: int, grid: int) -> dict[str, int]:
    """The arguments of `forward` of these names, for a grid of grid x grid."""
    wide = {"WIDE_Y": widest_window(out_h, grid), "WIDE_X": widest_window(out_w, grid)}
    return {"BINS_Y": out_h, "BINS_X": out_w, "GRID_Y": grid, "GRID_X": grid, **wide}


def multi_level_roi_align(
    features: list[Tensor],
    rois: Tensor,
    out_h: int,
    out_w: int,
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    finest_size: float,
    semantic: Tensor | None,
    semantic_scale: float,
    semantic_grid: int,
) -> Tensor:
    """See `htc_fast.ops.multi_level_roi_align`; rois [K, 5] or [N, R, 4]; RoIs of no image give zeros."""
    check_floats("feature maps", features[0])
    maps = channels_last([*features, *([] if semantic is None else [semantic])])
    images, channels = maps[0].shape[:2]
    count = rois.numel() // rois.shape[-1]
    # Not a view of [K, h, w, C]: autograd lets nobody write to views that operators return.
    shape = count, channels, out_h, out_w
    out = torch.empty(shape, dtype=maps[0].dtype, device=maps[0].device, memory_format=torch.channels_last)
    sizes = block_sizes(out_w, channels, out.element_size())
    furthest = max((m.shape[2] - 1) * m.stride(2) + (m.shape[3] - 1) * m.stride(3) + channels for m in maps)
    launch(
        forward,
        programs(count, out_h, out_w, channels, sizes),
        out.device,
        tuple(maps),
        *(odd([m.shape[i] for m in maps]) for i in (2, 3)),
        *(tuple(m.stride(i) for m in maps) for i in (0, 2, 3)),
        (*map(float, spatial_scales), *([] if semantic is None else [float(semantic_scale)])),
        rois.detach().float().contiguous(),
        out,
        rois.shape[-2],
        images,
        channels,
        sampling_ratio,
        float(finest_size),
        **bins_and_grid(out_h, out_w, semantic_grid),
        LEVELS=len(features),
        SEMANTIC=int(semantic is not None),
        ALIGNED=aligned,
        HAS_IMAGE=rois.dim() == 2,
        LARGE=furthest >= 2**31,
        **sizes,
    )
    return out
