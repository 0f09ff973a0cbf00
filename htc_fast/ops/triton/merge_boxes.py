"""Fusion of the pyramid in the semantic branch by boxes of 8 x 8 pixels, whose resampling is a product too.

A box reads a window of few pixels of every small level. Each of its pixels is a weighted sum of that window, so the
box is a matrix of bilinear weights times the window: tensor cores do what else takes most of the instructions.
The weights are rounded to the maps' type. An infinite number in a window makes NaN of the whole box.
"""

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import relu
from htc_fast.ops.triton.launch import launch, odd, power_of_two
from htc_fast.ops.triton.taps import size_of
from htc_fast.ops.triton.tile_product import tile_product
from htc_fast.ops.triton.tiles import Device, Tile

SIDE = 8  # of a box


@triton.jit
def level_of(small, sizes, steps, i: tl.constexpr):
    """A small level's map, lines, columns, and steps along both."""
    return small[i], size_of(sizes, 2 * i), size_of(sizes, 2 * i + 1), steps[2 * i], steps[2 * i + 1]


@triton.jit
def window_of(level, corner, o, outputs, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    """The pixels of a small level that a box reads: [2**LINES * 2**COLUMNS, o]; and which of them exist."""
    image, y, x = corner
    source, size_y, size_x, step_y, step_x = level
    k = tl.arange(0, 1 << LINES + COLUMNS)
    line = (y.to(tl.float32) * step_y).to(tl.int32) + (k >> COLUMNS)
    column = (x.to(tl.float32) * step_x).to(tl.int32) + k % (1 << COLUMNS)
    known = ((line < size_y) & (column < size_x))[:, None] & (o < outputs)[None, :]
    start = source + image.to(tl.int64) * (size_y * size_x) * outputs
    return tl.load(start + ((line * size_x + column)[:, None] * outputs + o[None, :]), mask=known), known


@triton.jit
def hat(first, place, cell, step):
    """[place, cell]: the bilinear weight of a cell at a place, both counted from the first of their box."""
    start = (first.to(tl.float32) * step).to(tl.int32)
    at = (first + place).to(tl.float32) * step
    return tl.maximum(1.0 - tl.abs(at[:, None] - (start + cell).to(tl.float32)[None, :]), 0.0)


@triton.jit
def spread(found, level, y, x, COLUMNS: tl.constexpr, SIDE: tl.constexpr):
    """A window resampled to the box: [SIDE * SIDE, o], float32."""
    # Zeros for what does not exist are put in here: where the load did, Triton would wait for it there.
    window = tl.where(found[1], found[0], 0.0).to(found[0].dtype)
    pixel, k = tl.arange(0, SIDE * SIDE), tl.arange(0, window.shape[0])
    weight = hat(y, pixel // SIDE, k >> COLUMNS, level[3])
    weight *= hat(x, pixel % SIDE, k % (1 << COLUMNS), level[4])
    return tl.dot(weight.to(window.dtype), window)


@triton.jit(do_not_specialize=["height", "width"])
def merge_boxes_kernel(
    sources,  # [N, height, width, channels]: of the levels of the result's size, or resampled to it
    weights,  # theirs [outputs, channels]
    biases,  # theirs [outputs]
    small,  # of the others [N, H_l, W_l, outputs], products with bias
    sizes,  # their H_0, W_0, H_1, ... as `launch.odd` passes numbers
    steps,  # their pixels per pixel of the result, by lines and columns
    out,  # [N, height, width, outputs]
    height,
    width,
    channels,
    outputs,
    WINDOWS: tl.constexpr,  # of every small level, four bits each: binary logarithms of lines and columns
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,
    SIDE: tl.constexpr,  # of a box
    OUTPUTS: tl.constexpr,  # of a tile
    DEPTH: tl.constexpr,  # channels of a step
):
    """As `merge_kernel` without a gradient."""
    tiles, across, down = tl.cdiv(outputs, OUTPUTS), tl.cdiv(width, SIDE), tl.cdiv(height, SIDE)
    box, o = tl.program_id(0) // tiles, tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    image, y, x = box // across // down, box // across % down * SIDE, box % across * SIDE
    corner = image, y, x
    # The largest window is on its way while the sources are multiplied; others would take too many registers.
    first = window_of(level_of(small, sizes, steps, 0), corner, o, outputs, WINDOWS & 15, WINDOWS >> 4 & 15)
    pixel = tl.arange(0, SIDE * SIDE)
    line, column = y + pixel // SIDE, x + pixel % SIDE
    live, row = (line < height) & (column < width), (image * height + line) * width + column
    merged = tl.zeros((SIDE * SIDE, OUTPUTS), tl.float32)
    for i in tl.static_range(len(sources)):
        total = tile_product(
            sources[i], weights[i], row, o, live, channels, outputs, 1, channels, EVEN, PRECISION, DEPTH
        )
        total += tl.load(biases[i] + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        merged += relu(total)
    merged += relu(spread(first, level_of(small, sizes, steps, 0), y, x, WINDOWS >> 4 & 15, SIDE))
    for i in tl.static_range(1, len(small)):
        level = level_of(small, sizes, steps, i)
        window = window_of(level, corner, o, outputs, WINDOWS >> 8 * i & 15, WINDOWS >> 8 * i + 4 & 15)
        merged += relu(spread(window, level, y, x, WINDOWS >> 8 * i + 4 & 15, SIDE))
    place, known = row.to(tl.int64)[:, None] * outputs + o[None, :], live[:, None] & (o < outputs)[None, :]
    tl.store(out + place, merged.to(out.dtype.element_ty), mask=known)


def window_side(size: int, out_size: int) -> int:
    """Binary logarithm of how many pixels of a small level a box may read along an axis, at most."""
    return (math.ceil((SIDE - 1) * _step(size, out_size)) + 1).bit_length()


def _step(size: int, out_size: int) -> float:
    return (size - 1) / (out_size - 1) if out_size > 1 else 0.0


def windows_of(small: Sequence[Tensor], height: int, width: int) -> list[tuple[int, int]]:
    """Lines and columns of every small level's window, as binary logarithms: 16 pixels at least, for tensor cores."""
    found = [(window_side(one.shape[2], height), window_side(one.shape[3], width)) for one in small]
    return [(lines, max(columns, 4 - lines)) for lines, columns in found]


def takes(first: Tensor, small: Sequence[Tensor], outputs: int, device: Device) -> bool:
    """Whether this kernel is meant for sources like `first` and these small levels, on this device."""
    channels, height, width = first.shape[1:]
    # Elsewhere than on sm_90 products take more registers.
    able = device.warpgroups and device.resident and device.shared > 200 * 1024 and first.element_size() == 2
    if not able or channels % 16 or outputs % 16 or not 1 <= len(small) <= 3:
        return False
    if any(one.shape[2] * one.shape[3] * outputs >= 2**31 for one in small):
        return False
    return all(lines + columns <= 6 for lines, columns in windows_of(small, height, width))


def merge_boxes(
    sources: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], small: Sequence[Tensor], out: Tensor
) -> None:
    """Fill out [N, O, H, W] with the sum of relu(weight x source + bias) and of the small products resampled."""
    channels, (count, outputs, height, width) = sources[0].shape[1], out.shape
    windows = windows_of(small, height, width)
    code = sum((lines | columns << 4) << 8 * i for i, (lines, columns) in enumerate(windows))
    sides = [pair for one in small for pair in zip(one.shape[2:], (height, width))]
    steps = tuple(_step(*pair) for pair in sides)
    tile = Tile(SIDE * SIDE, power_of_two(outputs, 128), 64, 8, 3)
    options = {name: value for name, value in tile.options(channels, out.dtype).items() if name != "ROWS"}
    boxes = count * triton.cdiv(height, SIDE) * triton.cdiv(width, SIDE)
    given = tuple(sources), tuple(weights), tuple(biases), tuple(small), odd([side for side, _ in sides]), steps, out
    numbers, kind = (height, width, channels, outputs), {"WINDOWS": code, "SIDE": SIDE}
    programs = boxes * triton.cdiv(outputs, tile.outputs)
    # 128 registers: two programs per multiprocessor, one of which is multiplied while the other one waits.
    launch(merge_boxes_kernel, programs, out.device, *given, *numbers, **kind, **options, maxnreg=128)
