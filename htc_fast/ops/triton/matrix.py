"""Products over the pixels of channels-last maps: 3x3 and 1x1 convolutions as matrix products, and their gradients.

A map [K, C, H, W] is the matrix [rows, C] with one row per pixel, rows = K * H * W. A 3x3 convolution is nine products
whose left side is that matrix shifted by a tap; pixels beyond the border load as zeros, and nothing is unfolded in
memory. Sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.by_cudnn import by_cudnn
from htc_fast.ops.triton.epilogue import ALL, COUNTED, PLAIN, RELU, SUM, epilogue, nearest, wanted_rows
from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.tiles import Tile, beats_cudnn, device_of, gradient_tile, precision, tile_for
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


@triton.jit(do_not_specialize=["rows", "height", "width", "per_image", "span"])
def weight_gradient_kernel(
    grad,  # [K, H, W, outputs]
    x,  # [K, H, W, channels]
    out,  # [parts, outputs, TAPS, channels] float32
    choice,  # counts [N] or labels [K], as WANTED says
    rows,  # K * H * W
    height,
    width,
    per_image,  # K / N
    channels,
    outputs,
    span,  # rows of a part
    TAPS: tl.constexpr,  # 1 or 9
    WANTED: tl.constexpr,
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    OUTPUTS: tl.constexpr,  # of a tile,
    CHANNELS: tl.constexpr,  # its channels
    DEPTH: tl.constexpr,  # and the rows of a step
):
    """out[part, o, tap, c] = sum over the part's rows of grad[row, o] * x[row shifted by the tap, c]."""
    blocks = tl.cdiv(channels, CHANNELS)
    o = tl.program_id(0) // (TAPS * blocks) * OUTPUTS + tl.arange(0, OUTPUTS)
    tap = tl.program_id(0) // blocks % TAPS
    c = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    dy, dx = 0, 0
    if TAPS == 9:
        dy, dx = tap // 3 - 1, tap % 3 - 1
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, rows)
    total = tl.zeros((OUTPUTS, CHANNELS), tl.float32)
    for start in range(first, last, DEPTH):
        row = start + tl.arange(0, DEPTH)
        seen = wanted_rows(row // (height * width), choice, per_image, WANTED, row < last)
        if TAPS == 9:
            py, px = row // width % height + dy, row % width + dx
            seen = seen & (py >= 0) & (py < height) & (px >= 0) & (px < width)
        far = (row + dy * width + dx).to(tl.int64)
        right_mask, left_mask = seen[:, None] & (c < channels)[None, :], (row < last)[:, None] & (o < outputs)[None, :]
        right = tl.load(x + far[:, None] * channels + c[None, :], mask=right_mask, other=0.0)
        left = tl.load(grad + row.to(tl.int64)[:, None] * outputs + o[None, :], mask=left_mask, other=0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    place = ((tl.program_id(1) * outputs + o).to(tl.int64)[:, None] * TAPS + tap) * channels + c[None, :]
    tl.store(out + place, total, mask=(o < outputs)[:, None] & (c < channels)[None, :])


@triton.jit(do_not_specialize=["rows", "span"])
def gate_kernel(
    grad,  # [rows, outputs]
    out,  # [rows, outputs], where HAS_OUT
    gated,  # [rows, outputs], where HAS_OUT
    sums,  # [programs, outputs] float32
    rows,
    outputs,
    span,  # rows of a program
    HAS_OUT: tl.constexpr,
    ROWS: tl.constexpr,  # of a step
    OUTPUTS: tl.constexpr,  # of a program
):
    """gated = grad where out > 0, and every program's sum of it over its rows, for the bias."""
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS,), tl.float32)
    first = tl.program_id(0) * span
    for start in range(first, tl.minimum(first + span, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        place = row.to(tl.int64)[:, None] * outputs + o[None, :]
        known = (row < tl.minimum(first + span, rows))[:, None] & (o < outputs)[None, :]
        value = tl.load(grad + place, mask=known, other=0.0)
        if HAS_OUT:
            value = tl.where(tl.load(out + place, mask=known, other=0.0) > 0, value, 0.0)
            tl.store(gated + place, value, mask=known)
        total += tl.sum(value.to(tl.float32), axis=0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * outputs + o, total, mask=o < outputs)


def rows_of(maps: Tensor) -> Tensor:
    """Maps [K, C, H, W] with the channels of a pixel side by side and pixels in order: no copy where they are."""
    return maps.contiguous(memory_format=torch.channels_last)


def new_maps(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Unfilled maps [K, channels, height, width], channels-last."""
    return like.new_empty(like.shape[0], height, width, channels).permute(0, 3, 1, 2)


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
            return found
    out, rows = new_maps(x, outputs, height, width), count * height * width
    if not rows:
        return out
    start = weight.as_strided((1,), (1,), weight.storage_offset() - (taps - 1) * min(steps[2], 0))
    per_image = 1 if choice is None or not len(choice) else max(count // len(choice), 1)

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


def weight_gradient(grad: Tensor, x: Tensor, taps: int, count: Tensor | None = None, exact: bool = False) -> Tensor:
    """grad [K, O, H, W], x [K, C, H, W] -> [O, taps, C] float32; the order of sums depends on sizes and device alone.

    count  [N] or None: only the first count[n] of each image's maps are read
    exact  no TF32, whatever the flag says
    """
    grad, x = rows_of(grad), rows_of(x)
    (number, channels, height, width), outputs = x.shape, grad.shape[1]
    rows = number * height * width
    exact = exact or precision(x.dtype) == "ieee"
    tile = gradient_tile(x, outputs, channels, exact)
    tiles = triton.cdiv(outputs, tile.rows) * taps * triton.cdiv(channels, tile.outputs)
    parts = max(1, min(2 * device_of(x).processors // tiles, triton.cdiv(rows, 8 * tile.depth)))
    span = triton.cdiv(triton.cdiv(rows, parts), tile.depth) * tile.depth
    sums = x.new_zeros(parts, outputs, taps, channels, dtype=torch.float32)
    if rows:
        choice, per_image = (x, 1) if count is None else (count, number // len(count))
        sizes = rows, height, width, per_image, channels, outputs, span
        kind = {"TAPS": taps, "WANTED": ALL if count is None else COUNTED, "PRECISION": "ieee" if exact else "tf32"}
        blocks = {"OUTPUTS": tile.rows, "CHANNELS": tile.outputs, "DEPTH": tile.depth}
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
        launch(
            weight_gradient_kernel, (tiles, parts), x.device, grad, x, sums, choice, *sizes, **kind, **blocks, **options
        )
    return sums[0] if parts == 1 else sums.sum(dim=0)


def gate(grad: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """grad [K, O, H, W] where out > 0 (everywhere if out is None), and its sum over all pixels [O] float32."""
    grad = rows_of(grad)
    outputs, rows = grad.shape[1], grad.numel() // max(grad.shape[1], 1)
    gated = grad if out is None else torch.empty_like(grad, memory_format=torch.channels_last)
    block = min(max(16, triton.next_power_of_2(outputs)), 256)
    programs = max(1, min(264, triton.cdiv(rows, 64)))
    span = triton.cdiv(rows, programs) if rows else 0
    sums = grad.new_zeros(programs, outputs, dtype=torch.float32)
    if rows:
        grid, seen = (programs, triton.cdiv(outputs, block)), grad if out is None else rows_of(out)
        options = {"HAS_OUT": out is not None, "ROWS": 16, "OUTPUTS": block}
        launch(gate_kernel, grid, grad.device, grad, seen, gated, sums, rows, outputs, span, **options)
    return gated, sums.sum(dim=0)
