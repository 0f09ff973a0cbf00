"""Products over the pixels of channels-last maps: 3x3 and 1x1 convolutions as matrix products.

A map [K, C, H, W] is the matrix [rows, C] with one row per pixel, rows = K * H * W. A 3x3 convolution is nine products
whose left side is that matrix shifted by a tap; pixels beyond the border load as zeros, and nothing is unfolded in
memory. Sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.by_cudnn import by_cudnn, run, settle, settled
from htc_fast.ops.triton.epilogue import ALL, PLAIN, RELU, SUM, epilogue, nearest, wanted_rows
from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.resident import plan_for, product_resident
from htc_fast.ops.triton.tiles import Tile, beats_cudnn, device_of, tile_for
from htc_fast.ops.triton.tma import takes, tma_product, trusted


@triton.jit
def seen_taps(y, x, height, width, live, TAPS: tl.constexpr):
    """Bit t is set where tap t of a pixel lies on its map."""
    seen = live.to(tl.int32)
    if TAPS == 9:
        seen = (y * 0).to(tl.int32)
        for tap in tl.static_range(9):
            py, px = y + (tap // 3 - 1), x + (tap % 3 - 1)
            seen |= (live & (py >= 0) & (py < height) & (px >= 0) & (px < width)).to(tl.int32) << tap
    return seen


@triton.jit(do_not_specialize=["rows", "height", "width", "per_image", "other_height", "other_width"])
def product_kernel(
    x,  # [K, H, W, channels]
    weight,  # its first number; where the others lie, the three steps say
    bias,  # [outputs]
    extra,  # [K, H, W, outputs], of its own size for NEAREST: what is added or gated, where HAS_EXTRA
    out,  # [K, H, W, outputs]
    choice,  # counts [N] or labels [K]: which maps are wanted, as WANTED says
    rows,  # K * H * W
    height,
    width,
    per_image,  # K / N
    other_height,  # of extra
    other_width,
    channels,
    outputs,
    step_in,  # distance in weight between channels,
    step_out,  # outputs
    step_tap,  # and taps
    TAPS: tl.constexpr,  # 1 or 9
    EPILOGUE: tl.constexpr,  # what becomes of the sum
    HAS_EXTRA: tl.constexpr,
    WANTED: tl.constexpr,
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs
    DEPTH: tl.constexpr,  # and the channels of a step
):
    """out[row, o] = epilogue(sum over taps and channels of x[row shifted by the tap, c] * weight[c, o, tap])."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    # Neighbouring programs share rows, so that these are read from memory once.
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    live = wanted_rows(row // (height * width), choice, per_image, WANTED, row < rows)
    # What a step needs of its row is worked out once: one bit per tap, and addresses to which a step adds a number.
    seen = seen_taps(row // width % height, row % width, height, width, live, TAPS)
    d = tl.arange(0, DEPTH)
    here = x + (row.to(tl.int64)[:, None] * channels + d[None, :])
    columns = weight + (o.to(tl.int64)[None, :] * step_out + (d * step_in)[:, None])
    steps = TAPS * tl.cdiv(channels, DEPTH)
    if WANTED != 0:  # a tile of padding alone costs no product
        steps = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, steps, 0)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for k in range(steps):
        # Taps go fastest: nine steps in a row read nearly the same pixels.
        tap, c, shift = k % TAPS, k // TAPS * DEPTH, 0
        if TAPS == 9:
            shift = ((tap // 3 - 1) * width + (tap % 3 - 1)) * channels
        left_mask, right_mask = ((seen >> tap) & 1 != 0)[:, None], (o < outputs)[None, :]
        if not EVEN:
            there = c + d < channels
            left_mask, right_mask = left_mask & there[None, :], right_mask & there[:, None]
        left = tl.load(here + (shift + c), mask=left_mask, other=0.0)
        right = tl.load(columns + (tap * step_tap + c * step_in), mask=right_mask, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    place = row.to(tl.int64)[:, None] * outputs + o[None, :]
    known, other_place = (row < rows)[:, None] & (o < outputs)[None, :], place
    if EPILOGUE == 5:
        other_y = nearest(row // width % height, other_height, height)
        other_row = (row // (height * width) * other_height + other_y) * other_width
        other_row += nearest(row % width, other_width, width)
        other_place = other_row.to(tl.int64)[:, None] * outputs + o[None, :]
    epilogue(total, bias, extra, out, place, other_place, known, live, o, outputs, EPILOGUE, HAS_EXTRA)


def rows_of(maps: Tensor) -> Tensor:
    """Maps [K, C, H, W] with the channels of a pixel side by side and pixels in order: no copy where they are."""
    return maps.contiguous(memory_format=torch.channels_last)


def new_maps(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Unfilled maps [K, channels, height, width], channels-last."""
    shape = like.shape[0], channels, height, width
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def product(
    x: Tensor,
    weight: Tensor,
    outputs: int,
    steps: tuple[int, int, int],
    taps: int,
    epilogue: int,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    choice: Tensor | None = None,
    wanted: int = ALL,
) -> Tensor:
    """x [K, C, H, W] times weight: [K, outputs, H, W].

    steps   distances in the weight's memory between channels, outputs and taps; a negative tap step starts at the last
    extra   [K, outputs, H, W], what `epilogue` adds or gates; [K, outputs, h, w] for NEAREST, with one tap alone
    choice  counts [N] or labels [K], as `wanted` says; maps that are not wanted give zeros
    """
    x, extra = rows_of(x), None if extra is None else rows_of(extra)
    count, channels, height, width = x.shape
    turned = steps[2] < 0
    tma = taps == 9 and device_of(x).tma and epilogue in (PLAIN, RELU, SUM) and takes(x, weight, outputs, turned)
    theirs = by_cudnn(x, weight, bias, extra, taps, epilogue, wanted)
    if theirs is not None and (extra is not None or not beats_cudnn(x, outputs, tma)):
        found = theirs()
        if found is not None:
            settle(x, weight, extra)
            return found
    out, rows = new_maps(x, outputs, height, width), count * height * width
    if not rows:
        return out
    if taps == 1 and bias is not None and extra is not None and wanted == ALL and steps[:2] == (1, channels):
        plan = plan_for(x, outputs, epilogue, device_of(x))
        if plan is not None:
            product_resident(x, weight, bias, extra, out, epilogue, plan)
            return out
    start = weight
    if turned:
        start = weight.as_strided((1,), (1,), weight.storage_offset() - (taps - 1) * steps[2])
    per_image = 1 if choice is None or not choice.shape[0] else max(count // choice.shape[0], 1)

    def agrees(tile: Tile) -> bool:
        return tile.box is None or trusted(x, tile, turned, epilogue, extra is not None, wanted)

    def run(tile: Tile) -> None:
        if tile.box is not None:
            tma_product(x, weight, out, tile, turned, epilogue, bias, extra, choice, wanted, per_image)
            return
        programs = tile.tiles(count, height, width, outputs)
        maps = [out if one is None else one for one in (bias, extra, out, choice)]
        other_size = extra.shape[2:] if extra is not None else (height, width)
        sizes = rows, height, width, per_image, *other_size, channels, outputs
        kind = {"TAPS": taps, "EPILOGUE": epilogue, "HAS_EXTRA": extra is not None, "WANTED": wanted}
        options = tile.options(channels, x.dtype)
        launch(product_kernel, programs, x.device, x, start, *maps, *sizes, *steps, **kind, **options)

    def measured(tile: Tile) -> None:
        if not agrees(tile):
            raise RuntimeError(f"{tile} gives other results than torch")  # a search goes on without it
        run(tile)

    # Without bulk copies, skipping what is not wanted takes the registers that a second map does.
    more = extra is not None or (choice is not None and not device_of(x).tma)
    tile = tile_for(x, taps, outputs, measured, tma, more, **({"rival": theirs} if theirs else {}))
    run(tile if agrees(tile) else tile_for(x, taps, outputs, run, False, more))
    return out


def convolution_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    extra: Tensor | None = None,
    choice: Tensor | None = None,
    wanted: int = ALL,
) -> Tensor:
    """relu(3x3 convolution + bias + extra), as a `product`."""
    x, weight, extra = rows_of(x), rows_of(weight), None if extra is None else rows_of(extra)
    if settled(x, weight, extra, wanted):
        found = run(x, weight, bias, extra)
        if found is not None:
            return found
    outputs, channels = weight.shape[0], weight.shape[1]  # in memory [outputs, 3, 3, channels]
    return product(x, weight, outputs, (1, 9 * channels, channels), 9, RELU, bias, extra, choice, wanted)
