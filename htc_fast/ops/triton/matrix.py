"""Products over the pixels of channels-last maps: 3x3 and 1x1 convolutions as matrix products, and their gradients.

A map [K, C, H, W] is the matrix [rows, C] with one row per pixel, rows = K * H * W. A 3x3 convolution is nine products
whose left side is that matrix shifted by a tap; pixels beyond the border load as zeros, and nothing is unfolded in
memory. Sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.tiles import Tile, gradient_tile, precision, tile_for

# What becomes of the sum: kept; relu(sum + bias [+ extra]); extra + relu(sum + bias); extra where sum + bias > 0.
PLAIN, RELU, FLOW, GATE = 0, 1, 2, 3
# Which maps of the batch are computed: all; the first counts[n] of every image's; those whose label is not negative.
ALL, COUNTED, LABELLED = 0, 1, 2


@triton.jit
def relu(value):
    """As torch's: NaN stays."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def wanted_rows(image, choice, per_image, WANTED: tl.constexpr, mask):
    """Whether the map `image` of each row is to be computed."""
    live = mask
    if WANTED == 1:
        live &= image % per_image < tl.load(choice + image // per_image, mask=mask, other=0)
    if WANTED == 2:
        live &= tl.load(choice + image, mask=mask, other=-1) >= 0
    return live


@triton.jit
def product_kernel(x, weight, bias, extra, out, choice, rows, height, width, per_image, channels, outputs, step_in,
                   step_out, step_tap, TAPS: tl.constexpr, FINISH: tl.constexpr, HAS_EXTRA: tl.constexpr,
                   WANTED: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
                   OUTPUTS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """out[row, o] = finish(sum over taps and channels of x[row shifted by the tap, c] * weight[c, o, tap])."""
    tiles = tl.cdiv(outputs, OUTPUTS)
    # Neighbouring programs share rows, so that these are read from memory once.
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    live = wanted_rows(row // (height * width), choice, per_image, WANTED, row < rows)
    py, px = row // width % height, row % width
    here = x + row.to(tl.int64)[:, None] * channels
    columns = weight + o.to(tl.int64)[None, :] * step_out
    depths = tl.cdiv(channels, DEPTH)
    # A tile of padding alone costs no product.
    steps = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, TAPS * depths, 0)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for k in range(steps):
        tap = k // depths
        c = k % depths * DEPTH + tl.arange(0, DEPTH)
        seen, shift = live, 0
        if TAPS == 9:
            dy, dx = tap // 3 - 1, tap % 3 - 1
            seen = live & (py + dy >= 0) & (py + dy < height) & (px + dx >= 0) & (px + dx < width)
            shift = (dy * width + dx) * channels
        if EVEN:
            left = tl.load(here + (shift + c)[None, :], mask=seen[:, None], other=0.0)
            right = tl.load(columns + (tap * step_tap + c * step_in)[:, None], mask=(o < outputs)[None, :], other=0.0)
        else:
            there = c < channels
            left = tl.load(here + (shift + c)[None, :], mask=seen[:, None] & there[None, :], other=0.0)
            right = tl.load(columns + (tap * step_tap + c * step_in)[:, None],
                            mask=(o < outputs)[None, :] & there[:, None], other=0.0)  # fmt: skip
        total = tl.dot(left, right, total, input_precision=PRECISION)
    place = row.to(tl.int64)[:, None] * outputs + o[None, :]
    known = (row < rows)[:, None] & (o < outputs)[None, :]
    if FINISH != 0:
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        other = total * 0.0
        if HAS_EXTRA:
            other = tl.load(extra + place, mask=known & live[:, None], other=0.0).to(tl.float32)
        if FINISH == 1:
            total = relu(total + other)
        if FINISH == 2:
            total = relu(total) + other
        if FINISH == 3:
            total = tl.where(total > 0, other, 0.0)
        total = tl.where(live[:, None], total, 0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=known)


@triton.jit
def weight_gradient_kernel(grad, x, out, rows, height, width, channels, outputs, span, TAPS: tl.constexpr,
                           PRECISION: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr,
                           DEPTH: tl.constexpr):  # fmt: skip
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
        py, px = row // width % height + dy, row % width + dx
        seen = (row < last) & (py >= 0) & (py < height) & (px >= 0) & (px < width)
        far = (row + dy * width + dx).to(tl.int64)
        right = tl.load(x + far[:, None] * channels + c[None, :], mask=seen[:, None] & (c < channels)[None, :],
                        other=0.0)  # fmt: skip
        left = tl.load(grad + row.to(tl.int64)[:, None] * outputs + o[None, :],
                       mask=(row < last)[:, None] & (o < outputs)[None, :], other=0.0)  # fmt: skip
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    place = ((tl.program_id(1) * outputs + o).to(tl.int64)[:, None] * TAPS + tap) * channels + c[None, :]
    tl.store(out + place, total, mask=(o < outputs)[:, None] & (c < channels)[None, :])


@triton.jit
def gate_kernel(grad, out, gated, sums, rows, outputs, span, HAS_OUT: tl.constexpr, ROWS: tl.constexpr,
                OUTPUTS: tl.constexpr):  # fmt: skip
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


def product(x: Tensor, weight: Tensor, outputs: int, steps: tuple[int, int, int], taps: int, finish: int,
            bias: Tensor | None = None, extra: Tensor | None = None, choice: Tensor | None = None,
            wanted: int = ALL) -> Tensor:  # fmt: skip
    """x [K, C, H, W] times weight: [K, outputs, H, W].

    steps   distances in the weight's memory between channels, outputs and taps; a negative tap step starts at the last
    extra   [K, outputs, H, W], what `finish` adds or gates
    choice  counts [N] or labels [K], as `wanted` says; maps that are not wanted give zeros
    """
    x = rows_of(x)
    extra = None if extra is None else rows_of(extra)
    count, channels, height, width = x.shape
    out, rows = new_maps(x, outputs, height, width), count * height * width
    step_in, step_out, step_tap = steps
    start = weight.as_strided((1,), (1,), weight.storage_offset() - (taps - 1) * min(step_tap, 0))
    per_image = 1 if choice is None or not len(choice) else max(count // len(choice), 1)

    def run(tile: Tile) -> None:
        programs = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
        launch(product_kernel, programs, x.device, x, start, out if bias is None else bias,
               out if extra is None else extra, out, out if choice is None else choice, rows, height, width, per_image,
               channels, outputs, step_in, step_out, step_tap, TAPS=taps, FINISH=finish, HAS_EXTRA=extra is not None,
               WANTED=wanted, EVEN=channels % tile.depth == 0, PRECISION=precision(x.dtype), ROWS=tile.rows,
               OUTPUTS=tile.outputs, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
               enable_fp_fusion=True)  # fmt: skip

    if rows:
        run(tile_for("product", x, rows, channels * taps, outputs, run, extra is not None))
    return out


def weight_gradient(grad: Tensor, x: Tensor, taps: int) -> Tensor:
    """grad [K, O, H, W], x [K, C, H, W] -> [O, taps, C] float32; the order of sums depends on sizes alone."""
    grad, x = rows_of(grad), rows_of(x)
    (count, channels, height, width), outputs = x.shape, grad.shape[1]
    rows = count * height * width
    tile = gradient_tile(x, outputs, channels)
    tiles = triton.cdiv(outputs, tile.rows) * taps * triton.cdiv(channels, tile.outputs)
    parts = max(1, min(triton.cdiv(256, tiles), triton.cdiv(rows, 8 * tile.depth)))
    span = triton.cdiv(triton.cdiv(rows, parts), tile.depth) * tile.depth
    sums = x.new_zeros(parts, outputs, taps, channels, dtype=torch.float32)
    if rows:
        launch(weight_gradient_kernel, (tiles, parts), x.device, grad, x, sums, rows, height, width, channels, outputs,
               span, TAPS=taps, PRECISION=precision(x.dtype), OUTPUTS=tile.rows, CHANNELS=tile.outputs,
               DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True)  # fmt: skip
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
        launch(gate_kernel, (programs, triton.cdiv(outputs, block)), grad.device, grad,
               grad if out is None else rows_of(out), gated, sums, rows, outputs, span, HAS_OUT=out is not None,
               ROWS=16, OUTPUTS=block)  # fmt: skip
    return gated, sums.sum(dim=0)
