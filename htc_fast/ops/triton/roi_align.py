"""RoIAlign over all levels of a pyramid and the semantic map in one launch, and its gradient, in Triton.

One program makes one row of bins for a block of channels: loads run along the channels, 128 bits at a time, and every
cell that a bin touches is read once, with the weights of all samples that hit it summed up first.
"""

import triton
import triton.language as tl

from htc_fast.ops.triton.taps import along, level_of, load_box, tap, tap_range, window


@triton.jit
def pick(values, index):
    """values[index] for a tuple of kernel arguments."""
    chosen = values[0]
    for i in tl.static_range(1, len(values)):
        chosen = tl.where(index == i, values[i], chosen)
    return chosen


@triton.jit
def pool(total, plane, row_stride, cell_stride, height, width, box_y, box_x, p_y, p_x, channel, wanted,
         BINS_Y: tl.constexpr, BINS_X: tl.constexpr, GRID_Y: tl.constexpr, GRID_X: tl.constexpr,
         WIDE_Y: tl.constexpr, WIDE_X: tl.constexpr, TAPS: tl.constexpr, LARGE: tl.constexpr):  # fmt: skip
    """Add one map's bins (p_y, p_x[BINS]) to total [TAPS, BINS, C]; the sum over TAPS is the caller's."""
    first_y, count_y = window(p_y, box_y[0], box_y[1], box_y[2], BINS_Y, GRID_Y)
    first_x, count_x = window(p_x, box_x[0], box_x[1], box_x[2], BINS_X, GRID_X)
    most_y, most_x = box_y[2] * WIDE_Y, box_x[2] * WIDE_X
    low_y, taps_y = tap_range(first_y, box_y[3], count_y, most_y, height)
    low_x, taps_x = tap_range(first_x, box_x[3], count_x, most_x, width)
    taps_x = tl.where(wanted, taps_x, 0)
    samples = tl.maximum(count_y, 1).to(tl.float32) * tl.maximum(count_x, 1).to(tl.float32)
    share = tl.div_rn(1.0, samples)[None, :]
    longest = tl.max(taps_x, axis=0)
    for start in range(0, longest, TAPS):
        j = start + tl.arange(0, TAPS)[:, None]
        cell_x, weight_x = tap(j, low_x[None, :], first_x[None, :], box_x[3], count_x[None, :], most_x, width)
        mask = (j < taps_x[None, :])[:, :, None] & channel[1]
        weight_x = weight_x * share
        at_x = (cell_x.to(tl.int64) if LARGE else cell_x) * cell_stride
        for i in range(taps_y):
            cell_y, weight_y = tap(i, low_y, first_y, box_y[3], count_y, most_y, height)
            at = (cell_y.to(tl.int64) if LARGE else cell_y) * row_stride + at_x
            value = tl.load(plane + at[:, :, None] + channel[0], mask=mask, other=0.0)
            total = tl.fma(value.to(tl.float32), (weight_x * weight_y)[:, :, None], total)
    return total


@triton.jit
def forward(maps, heights, widths, image_strides, row_strides, cell_strides, scales,
            rois, out, per_image, images, channels, sampling_ratio, canonical_size, canonical_level, first_level,
            BINS_Y: tl.constexpr, BINS_X: tl.constexpr, GRID_Y: tl.constexpr, GRID_X: tl.constexpr,
            WIDE_Y: tl.constexpr, WIDE_X: tl.constexpr, LEVELS: tl.constexpr, SEMANTIC: tl.constexpr,
            ALIGNED: tl.constexpr, HAS_IMAGE: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
            TAPS: tl.constexpr, LARGE: tl.constexpr):  # fmt: skip
    """maps: the levels, then the semantic map if SEMANTIC. out [K, BINS_Y, BINS_X, C] contiguous."""
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
    total = tl.zeros([TAPS, BLOCK_X, BLOCK_C], tl.float32)
    if good:
        level = level_of(x1, y1, x2, y2, canonical_size, canonical_level, first_level, LEVELS)
        for which in tl.static_range(0, 1 + SEMANTIC):
            m = level if which == 0 else LEVELS
            plane = pick(maps, m) + image.to(tl.int64) * pick(image_strides, m)
            if which == 0:
                box_y = along(y1, y2, pick(scales, m), sampling_ratio, BINS_Y, ALIGNED)
                box_x = along(x1, x2, pick(scales, m), sampling_ratio, BINS_X, ALIGNED)
                total = pool(total, plane, pick(row_strides, m), pick(cell_strides, m), pick(heights, m),
                             pick(widths, m), box_y, box_x, p_y, p_x, channel, p_x < BINS_X,
                             BINS_Y, BINS_X, BINS_Y, BINS_X, 1, 1, TAPS, LARGE)  # fmt: skip
            else:
                box_y = along(y1, y2, pick(scales, m), sampling_ratio, GRID_Y, ALIGNED)
                box_x = along(x1, x2, pick(scales, m), sampling_ratio, GRID_X, ALIGNED)
                total = pool(total, plane, pick(row_strides, m), pick(cell_strides, m), pick(heights, m),
                             pick(widths, m), box_y, box_x, p_y, p_x, channel, p_x < BINS_X,
                             BINS_Y, BINS_X, GRID_Y, GRID_X, WIDE_Y, WIDE_X, TAPS, LARGE)  # fmt: skip
    result = tl.sum(total, axis=0)
    at = ((k * BINS_Y + p_y) * BINS_X + p_x[:, None]) * channels + c[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask=(p_x < BINS_X)[:, None] & (c < channels)[None, :])
