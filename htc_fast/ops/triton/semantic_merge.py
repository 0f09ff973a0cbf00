"""Fusion of the pyramid in the semantic branch, all levels in one launch, in Triton.

Each level is resampled while its product loads it: nothing of stride 8 is written but the sum.
"""

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import GATE, PLAIN, relu
from htc_fast.ops.triton.launch import check_floats, launch, odd
from htc_fast.ops.triton.matrix import gate, new_maps, product, rows_of, weight_gradient
from htc_fast.ops.triton.taps import pick, size_of
from htc_fast.ops.triton.tiles import chain_tile, precision

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


@triton.jit(do_not_specialize=["rows", "height", "width"])
def merge_kernel(
    features,  # of every level [N, H_l, W_l, channels]
    weights,  # of every level [outputs, channels]
    biases,  # of every level [outputs]
    sizes,  # H_0, W_0, H_1, ... as `launch.odd` passes numbers
    out,  # [N, height, width, outputs]
    rows,  # N * height * width
    height,
    width,
    channels,
    outputs,
    LEVELS: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs
    DEPTH: tl.constexpr,  # and the channels of a step
):
    """out = sum over the levels of relu(weight x resampled level + bias). One program: ROWS pixels, OUTPUTS outputs."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    image, y, x = row // (height * width), row // width % height, row % width
    live = row < rows
    merged = tl.zeros((ROWS, OUTPUTS), tl.float32)
    # One loop, not five in a row: their addresses together would not fit into registers.
    for level in range(LEVELS):
        size_y, size_x = size_of(sizes, 2 * level), size_of(sizes, 2 * level + 1)
        source, weight, bias = pick(features, level), pick(weights, level), pick(biases, level)
        total = tl.zeros((ROWS, OUTPUTS), tl.float32)
        for k in range(tl.cdiv(channels, DEPTH)):
            c = k * DEPTH + tl.arange(0, DEPTH)
            left = resampled(source, image, y, x, c, live, size_y, size_x, height, width, channels, EVEN)
            mask = (o < outputs)[None, :]
            if not EVEN:
                mask = mask & (c < channels)[:, None]
            right = tl.load(weight + o[None, :] * channels + c[:, None], mask=mask, other=0.0)
            total = tl.dot(left.to(right.dtype), right, total, input_precision=PRECISION)
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        merged += relu(total)
    place = row.to(tl.int64)[:, None] * outputs + o[None, :]
    tl.store(out + place, merged.to(out.dtype.element_ty), mask=live[:, None] & (o < outputs)[None, :])


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


def semantic_merge(features: list[Tensor], weights: list[Tensor], biases: list[Tensor], level: int) -> Tensor:
    """All levels at the size of features[level], each through its 1x1 and ReLU, summed."""
    check_floats("features", features[0])
    features = [rows_of(one) for one in features]
    count, channels, height, width = features[level].shape
    outputs, rows = weights[0].shape[0], count * height * width
    out, exact = new_maps(features[level], outputs, height, width), precision(features[0].dtype) == "ieee"
    tile = chain_tile(features[0], 64, 64 if exact else 128, 64)  # products without tensor cores take more registers
    sizes = odd([side for one in features for side in one.shape[2:]])
    programs = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
    given = (tuple(one.contiguous() for one in some) for some in (weights, biases))
    numbers, options = (rows, height, width, channels, outputs), tile.options(channels, out.dtype)
    launch(
        merge_kernel,
        programs,
        out.device,
        tuple(features),
        *given,
        sizes,
        out,
        *numbers,
        LEVELS=len(features),
        **options,
    )
    return out


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


def semantic_merge_backward(
    grad: Tensor, features: list[Tensor], weights: list[Tensor], biases: list[Tensor], level: int
) -> list[Tensor]:
    """Gradients of features, weights and biases in this order; what the forward kept in registers is made again."""
    height, width = features[level].shape[2:]
    grad, found = rows_of(grad), []
    for feature, weight, bias in zip(features, weights, biases):
        feature, weight, (outputs, channels) = rows_of(feature), weight.contiguous(), weight.shape[:2]
        source = resample(feature, height, width)
        gated = product(source, weight, outputs, (1, channels, 0), 1, GATE, bias.contiguous(), grad)
        below = product(gated, weight, channels, (channels, 1, 0), 1, PLAIN)
        weight_grad = weight_gradient(gated, source, 1).to(weight.dtype).view_as(weight)
        found.append((resample_gradient(below, feature), weight_grad, gate(gated)[1].to(bias.dtype)))
    return [one for kind in zip(*found) for one in kind]
