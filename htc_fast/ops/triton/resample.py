"""Bilinear resampling with corners aligned, and its gradient, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch, odd
from htc_fast.ops.triton.matrix import new_maps
from htc_fast.ops.triton.taps import pick, size_of

SIZES = ["rows", "size_y", "size_x", "height", "width"]


@triton.jit
def step_between(size, out_size):
    """Pixels of the source per pixel of the result, corners aligned."""
    step = tl.div_rn(tl.maximum(size - 1, 0).to(tl.float32), tl.maximum(out_size - 1, 1).to(tl.float32))
    return step * tl.where(out_size > 1, 1.0, 0.0)


@triton.jit
def two_taps(place, size, out_size):
    """First source pixel, whether there is a next, and its weight."""
    at = place.to(tl.float32) * step_between(size, out_size)
    low = tl.minimum(at.to(tl.int32), size - 1)
    high = tl.minimum(low + 1, size - 1)
    return low, high, at - low.to(tl.float32)


@triton.jit
def resampled(
    source,  # [N, size_y, size_x, channels]
    image,  # [rows] of every pixel of the result,
    y,  # [rows] its line
    x,  # [rows] and column
    c,  # [c] channels wanted
    live,  # [rows] whether the pixel exists
    size_y,
    size_x,
    height,  # of the result
    width,
    channels,
    EVEN: tl.constexpr,  # whether all of c exist
):
    """The source at pixels of a map of [height, width]: [rows, c], float32."""
    top, bottom, down = two_taps(y, size_y, height)
    left, right, across = two_taps(x, size_x, width)
    base = source + image.to(tl.int64)[:, None] * size_y * size_x * channels + c[None, :]
    total = tl.zeros((y.shape[0], c.shape[0]), tl.float32)
    for corner in tl.static_range(4):
        row = bottom if corner >= 2 else top
        column = right if corner % 2 else left
        weight = (down if corner >= 2 else 1.0 - down) * (across if corner % 2 else 1.0 - across)
        # Taps of no weight are not read: a level of the result's own size costs one load.
        mask = (live & (weight != 0.0))[:, None]
        if not EVEN:
            mask = mask & (c < channels)[None, :]
        value = tl.load(base + ((row * size_x + column) * channels)[:, None], mask=mask, other=0.0)
        total += value.to(tl.float32) * weight[:, None]
    return total


@triton.jit(do_not_specialize=SIZES)
def resample_kernel(
    source,  # [N, size_y, size_x, channels]
    out,  # [N, height, width, channels]
    rows,  # N * height * width
    size_y,
    size_x,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The source resampled, bilinear with corners aligned."""
    row, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image, y, x = row // (height * width), row // width % height, row % width
    value = resampled(source, image, y, x, c, row < rows, size_y, size_x, height, width, channels, False)
    place = row.to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (c < channels)[None, :])


@triton.jit
def reached(cell, size, out_size):
    """First and last pixel of the result that may read source pixel `cell`, and the step between them."""
    step = step_between(size, out_size)
    inverse = tl.div_rn(1.0, tl.where(step > 0, step, 1.0))
    first = tl.floor((cell.to(tl.float32) - 1.0) * inverse).to(tl.int32)
    last = tl.ceil((cell.to(tl.float32) + 1.0) * inverse).to(tl.int32)
    first = tl.where(step > 0, tl.maximum(first, 0), 0)
    return first, tl.where(step > 0, tl.minimum(last, out_size - 1), out_size - 1), step


@triton.jit(do_not_specialize=SIZES[1:])
def resample_gradient_kernel(
    grad,  # [N, height, width, channels], of the result
    out,  # [N, size_y, size_x, channels], of the source
    size_y,
    size_x,
    height,
    width,
    channels,
    CELLS: tl.constexpr,  # pixels of a line of the source per program
    CHANNELS: tl.constexpr,
):
    """Every source pixel gathers from the pixels that read it: no atomics, always the same order."""
    across = tl.cdiv(size_x, CELLS)
    image = (tl.program_id(0) // (across * size_y)).to(tl.int64)
    y = tl.program_id(0) // across % size_y
    x = tl.program_id(0) % across * CELLS + tl.arange(0, CELLS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first_y, last_y, step_y = reached(y, size_y, height)
    first_x, last_x, step_x = reached(x, size_x, width)
    longest = tl.max(tl.where(x < size_x, last_x - first_x, -1), axis=0) + 1
    total = tl.zeros((CELLS, CHANNELS), tl.float32)
    for row in range(first_y, last_y + 1):
        weight_y = tl.maximum(1.0 - tl.abs(row * step_y - y.to(tl.float32)), 0.0)
        for k in range(longest):
            column = first_x + k
            weight = tl.maximum(1.0 - tl.abs(column.to(tl.float32) * step_x - x.to(tl.float32)), 0.0) * weight_y
            place = ((image * height + row) * width + column)[:, None] * channels + c[None, :]
            mask = ((column <= last_x) & (x < size_x) & (weight > 0))[:, None] & (c < channels)[None, :]
            total += tl.load(grad + place, mask=mask, other=0.0).to(tl.float32) * weight[:, None]
    place = ((image * size_y + y) * size_x + x)[:, None] * channels + c[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(x < size_x)[:, None] & (c < channels)[None, :])


@triton.jit
def level_at(block, sizes, STEP: tl.constexpr, LEVELS: tl.constexpr):
    """Which level a program works on, whose first block stands at sizes[STEP * level], and its block there."""
    level = 0
    for i in tl.static_range(1, LEVELS):
        level += (block >= size_of(sizes, STEP * i)).to(tl.int32)
    return level, block - size_of(sizes, STEP * level)


@triton.jit(do_not_specialize=["length"])
def fold_kernel(
    sources,  # of every level [outer, length, inner]
    bits,  # [outer, length, inner]: bit l is set where level l takes the source, where HAS_BITS
    outs,  # of every level [outer, cells, inner]
    sizes,  # of every level first block, blocks of cells, cells, inner / channels, blocks of inner, as `launch.odd`
    length,
    channels,
    LEVELS: tl.constexpr,
    HAS_BITS: tl.constexpr,
    CELLS: tl.constexpr,  # per program
    INNER: tl.constexpr,
):
    """The gradient of resampling one axis: every cell gathers from the places that read it, always in one order."""
    level, block = level_at(tl.program_id(0), sizes, 5, LEVELS)
    across, cells = size_of(sizes, 5 * level + 1), size_of(sizes, 5 * level + 2)
    inner, columns = size_of(sizes, 5 * level + 3) * channels, size_of(sizes, 5 * level + 4)
    source, out = pick(sources, level), pick(outs, level)
    c = block % columns * INNER + tl.arange(0, INNER)
    cell = block // columns % across * CELLS + tl.arange(0, CELLS)
    outer = (block // columns // across).to(tl.int64)
    first, last, step = reached(cell, cells, length)
    longest = tl.max(tl.where(cell < cells, last - first, -1), axis=0) + 1
    total = tl.zeros((CELLS, INNER), tl.float32)
    for k in range(longest):
        at = first + k
        weight = tl.maximum(1.0 - tl.abs(at.to(tl.float32) * step - cell.to(tl.float32)), 0.0)
        place = (outer * length + at)[:, None] * inner + c[None, :]
        mask = ((at <= last) & (cell < cells) & (weight > 0))[:, None] & (c < inner)[None, :]
        value = tl.load(source + place, mask=mask, other=0.0).to(tl.float32) * weight[:, None]
        if HAS_BITS:  # not in the mask: loads would be of one number each
            open = (tl.load(bits + place, mask=mask, other=0).to(tl.int32) >> level) & 1
            value = tl.where(open != 0, value, 0.0)
        total += value
    place = (outer * cells + cell)[:, None] * inner + c[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(cell < cells)[:, None] & (c < inner)[None, :])


def resample(source: Tensor, height: int, width: int) -> Tensor:
    """source [N, C, h, w] -> [N, C, height, width], bilinear, corners aligned."""
    count, channels, *size = source.shape
    if tuple(size) == (height, width):
        return source
    out, rows = new_maps(source, channels, height, width), count * height * width
    block = max(16, min(256, triton.next_power_of_2(channels)))
    programs, numbers = (triton.cdiv(rows, 16), triton.cdiv(channels, block)), (rows, *size, height, width, channels)
    launch(resample_kernel, programs, out.device, source, out, *numbers, ROWS=16, CHANNELS=block)
    return out


def resample_gradient(grad: Tensor, like: Tensor) -> Tensor:
    """Gradient of `resample` with respect to its source, which was like `like`."""
    count, channels, height, width = grad.shape
    size = like.shape[2:]
    if tuple(size) == (height, width):
        return grad
    out, cells = new_maps(like, channels, *size), 4
    block = max(16, min(256, triton.next_power_of_2(channels)))
    programs = count * size[0] * triton.cdiv(size[1], cells), triton.cdiv(channels, block)
    numbers = *size, height, width, channels
    launch(resample_gradient_kernel, programs, out.device, grad, out, *numbers, CELLS=cells, CHANNELS=block)
    return out


def fold_axis(
    sources: list[Tensor], bits: Tensor | None, outs: list[Tensor], shapes: list[tuple[int, ...]], channels: int
) -> None:
    """One axis of every level in one launch; shapes: of each outer, length, cells and inner / channels."""
    sizes, programs, count = [], 0, 4
    block = max(16, min(256, triton.next_power_of_2(channels)))
    for outer, _, cells, inner in shapes:
        across, columns = triton.cdiv(cells, count), triton.cdiv(inner * channels, block)
        sizes += [programs, across, cells, inner, columns]
        programs += outer * across * columns
    known, given = outs[0] if bits is None else bits, (tuple(sources), tuple(outs))
    kind = {"LEVELS": len(shapes), "HAS_BITS": bits is not None, "CELLS": count, "INNER": block}
    length, device = shapes[0][1], outs[0].device
    launch(fold_kernel, programs, device, given[0], known, given[1], odd(sizes), length, channels, **kind)


def fold(grad: Tensor, bits: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """What reaches maps of `sizes` of the gradient of their resampled sum, [N, C, height, width], channels-last.

    bits     of grad's layout: bit l is set where map l was not cut off
    returns  [N, C, *size] each; columns first, in float32, then lines
    """
    count, channels, height, width = grad.shape
    lines = [grad.new_empty(count * height, w, channels, dtype=torch.float32) for _, w in sizes]
    fold_axis([grad] * len(sizes), bits, lines, [(count * height, width, w, 1) for _, w in sizes], channels)
    outs = [new_maps(grad, channels, *size) for size in sizes]
    fold_axis(lines, None, outs, [(count, height, h, w) for h, w in sizes], channels)
    return outs
