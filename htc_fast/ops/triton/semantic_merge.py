"""Fusion of the pyramid in the semantic branch, in Triton.

Bilinear weights sum to 1, so 1x1 and resampling commute: a level with fewer pixels than the result is multiplied at its
own size, one with more is resampled first. One kernel then multiplies what has the result's size, resamples the small
products, and sums: nothing of stride 8 is written but resampled P2 and the sum.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import relu
from htc_fast.ops.triton.gradients import by_library, gate, weight_gradient
from htc_fast.ops.triton.launch import cdiv, check_floats, launch, odd
from htc_fast.ops.triton.matrix import new_maps, rows_of
from htc_fast.ops.triton.merge_boxes import merge_boxes, takes
from htc_fast.ops.triton.resample import fold, level_at, resample, resample_gradient, resampled
from htc_fast.ops.triton.taps import pick, size_of
from htc_fast.ops.triton.tile_product import tile_product
from htc_fast.ops.triton.tiles import Tile, chain_tile, device_of, precision


@triton.jit
def products_kernel(
    sources,  # of every level [N, H_l, W_l, channels]
    weights,  # of every level
    biases,  # of every level [outputs], where HAS_BIAS
    outs,  # of every level [N, H_l, W_l, outputs]
    sizes,  # of every level first block and rows, as `launch.odd` passes numbers
    channels,
    outputs,
    step_in,  # distance in a weight between channels
    step_out,  # and outputs
    LEVELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs
    DEPTH: tl.constexpr,  # and the channels of a step
):
    """Every level's product at its own size, all in one launch: out = weight x source + bias."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    level, block = level_at(tl.program_id(0) // tiles, sizes, 2, LEVELS)
    row = block * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    source, weight, out = pick(sources, level), pick(weights, level), pick(outs, level)
    live = row < size_of(sizes, 2 * level + 1)
    total = tile_product(source, weight, row, o, live, channels, outputs, step_in, step_out, EVEN, PRECISION, DEPTH)
    if HAS_BIAS:
        total += tl.load(pick(biases, level) + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
    place = row.to(tl.int64)[:, None] * outputs + o[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=live[:, None] & (o < outputs)[None, :])


@triton.jit(do_not_specialize=["rows", "height", "width"])
def merge_kernel(
    sources,  # [N, height, width, channels]: of the levels of the result's size, or resampled to it
    weights,  # theirs [outputs, channels]
    biases,  # theirs [outputs]
    small,  # of the others [N, H_l, W_l, outputs], products with bias
    sizes,  # their H_0, W_0, H_1, ... as `launch.odd` passes numbers
    grad,  # [N, height, width, outputs], where BACKWARD
    gated,  # of the sources: where grad goes on, where BACKWARD
    out,  # [N, height, width, outputs]; where BACKWARD, bit l: whether grad goes on to small level l
    rows,  # N * height * width
    height,
    width,
    channels,
    outputs,
    LEVELS: tl.constexpr,  # sources,
    SMALL: tl.constexpr,  # and small levels
    BACKWARD: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs
    DEPTH: tl.constexpr,  # and the channels of a step
):
    """out = sum over the sources of relu(weight x source + bias) and over the small levels of relu(resampled)."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    live = row < rows
    merged = tl.zeros((ROWS, OUTPUTS), tl.int32 if BACKWARD else tl.float32)
    for level in range(LEVELS):
        source, weight, bias = pick(sources, level), pick(weights, level), pick(biases, level)
        total = tile_product(source, weight, row, o, live, channels, outputs, 1, channels, EVEN, PRECISION, DEPTH)
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        if BACKWARD:
            place, known = row.to(tl.int64)[:, None] * outputs + o[None, :], live[:, None] & (o < outputs)[None, :]
            above = tl.load(grad + place, mask=known & (total > 0), other=0.0)
            tl.store(pick(gated, level) + place, above, mask=known)
        else:
            merged += relu(total)
    image, y, x = row // (height * width), row // width % height, row % width
    for level in range(SMALL):
        size_y, size_x = size_of(sizes, 2 * level), size_of(sizes, 2 * level + 1)
        source = pick(small, level)
        part = resampled(source, image, y, x, o, live, size_y, size_x, height, width, outputs, False)
        if BACKWARD:
            merged |= (part > 0).to(tl.int32) << level
        else:
            merged += relu(part)
    place, known = row.to(tl.int64)[:, None] * outputs + o[None, :], live[:, None] & (o < outputs)[None, :]
    tl.store(out + place, merged.to(out.dtype.element_ty), mask=known)


class Levels(NamedTuple):
    """The levels' numbers by what is done first, and what the kernels read of them."""

    fine: list[int]  # of the result's size, or resampled to it
    small: list[int]  # multiplied at their own size
    sources: list[Tensor]  # of all, channels-last: those that have more pixels, resampled


def _levels(features: list[Tensor], level: int) -> Levels:
    size = features[level].shape[2:]
    small = [i for i, one in enumerate(features) if one.shape[2:] != size and one[0, 0].numel() <= size.numel()]
    fine = [i for i in range(len(features)) if i not in small]
    maps = [rows_of(one) for one in features]
    return Levels(fine, small, [one if i in small else resample(one, *size) for i, one in enumerate(maps)])


def _tile(x: Tensor, outputs: int, most: int) -> Tile:
    """For products of x by `outputs`, at most `most` of them in a tile."""
    exact = precision(x.dtype) == "ieee"  # products without tensor cores take more registers
    if x.shape[1] % 16 or outputs % 16:  # numbers are then loaded one by one, each with an address in registers
        return chain_tile(x, 16, 32, 64)
    return chain_tile(x, 64, 64 if exact else most, 64 if exact else 128)


def _products(
    sources: list[Tensor], weights: list[Tensor], biases: list[Tensor] | None, outputs: int, steps: tuple[int, int]
) -> list[Tensor]:
    """Each source [N, C, h, w] times its weight, at its own size and in its own type: [N, outputs, h, w]."""
    if not sources:
        return []
    channels, tile, blocks, sizes = sources[0].shape[1], _tile(sources[0], outputs, 128), 0, []
    outs = [new_maps(one, outputs, *one.shape[2:]) for one in sources]
    for one in sources:
        rows = one.shape[0] * one.shape[2] * one.shape[3]
        sizes += [blocks, rows]
        blocks += cdiv(rows, tile.rows)
    given = tuple(sources), tuple(weights), tuple(biases or weights), tuple(outs), odd(sizes)
    options = {"LEVELS": len(sources), "HAS_BIAS": biases is not None, **tile.options(channels, outs[0].dtype)}
    programs = blocks * cdiv(outputs, tile.outputs)
    launch(products_kernel, programs, outs[0].device, *given, channels, outputs, *steps, **options)
    return outs


def _merge(
    levels: Levels, weights: list[Tensor], biases: list[Tensor], grad: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The sum; or, given its gradient, where that goes on to the small levels (bits) and what the fine ones get."""
    first, (outputs, channels) = levels.sources[levels.fine[0]], weights[0].shape[:2]
    count, _, height, width = first.shape

    def of(some: list[Tensor], chosen: list[int]) -> list[Tensor]:
        return [some[i] for i in chosen]

    small = _products(
        of(levels.sources, levels.small), of(weights, levels.small), of(biases, levels.small), outputs, (1, channels)
    )
    out = new_maps(first, outputs, height, width)
    gated = [] if grad is None else [torch.empty_like(out) for _ in levels.fine]
    out = out if grad is None else torch.empty_like(out, dtype=torch.int8)
    sources, plain, added = (of(some, levels.fine) for some in (levels.sources, weights, biases))
    if grad is None and takes(first, small, outputs, device_of(first)):
        merge_boxes(sources, plain, added, small, out)
        return out, []
    sizes = odd([side for one in small for side in one.shape[2:]] or [1, 1])
    given = tuple(sources), tuple(plain), tuple(added)
    rest = tuple(small or [first]), sizes, out if grad is None else grad, tuple(gated or [out]), out
    # Wider ones would take 170 registers, and a multiprocessor hold one at a time.
    rows, tile = count * height * width, _tile(first, outputs, 64)
    kind = {"LEVELS": len(levels.fine), "SMALL": len(small), "BACKWARD": grad is not None}
    programs = cdiv(rows, tile.rows) * cdiv(outputs, tile.outputs)
    numbers, options = (rows, height, width, channels, outputs), tile.options(channels, first.dtype)
    launch(merge_kernel, programs, out.device, *given, *rest, *numbers, **kind, **options)
    return out, gated


def semantic_merge(features: list[Tensor], weights: list[Tensor], biases: list[Tensor], level: int) -> Tensor:
    """All levels at the size of features[level], each through its 1x1 and ReLU, summed."""
    check_floats("features", features[0])
    plain, added = ([one.contiguous() for one in some] for some in (weights, biases))
    return _merge(_levels(features, level), plain, added)[0]


def semantic_merge_backward(
    grad: Tensor, features: list[Tensor], weights: list[Tensor], biases: list[Tensor], level: int, forced: bool = False
) -> list[Tensor]:
    """Gradients of features, weights and biases in this order; what the forward did not keep is made again."""
    levels, grad, channels = _levels(features, level), rows_of(grad), weights[0].shape[1]
    plain = [one.contiguous() for one in weights]
    bits, gated = _merge(levels, plain, [one.contiguous() for one in biases], grad)
    sizes = [(features[i].shape[2], features[i].shape[3]) for i in levels.small]
    above = dict(zip(levels.fine, gated)) | (dict(zip(levels.small, fold(grad, bits, sizes))) if sizes else {})
    at = [above[i] for i in range(len(features))]  # gradients of the products, each at its own size
    below = _products(at, plain, None, channels, (channels, 1))
    found, library = [], by_library(grad, forced)
    for one, source, feature, weight, bias, under in zip(at, levels.sources, features, weights, biases, below):
        weight_grad = weight_gradient(one, source, 1, library=library).to(weight.dtype).view_as(weight)
        found.append((resample_gradient(under, feature), weight_grad, gate(one)[1].to(bias.dtype)))
    return [one for kind in zip(*found) for one in kind]
