"""Gradients of products over the pixels of channels-last maps: of what goes in, of the weight and of the bias.

Where a library may do it, a 3x3's are cuDNN's and, in 16 bits, a 1x1's cuBLAS's: both were measured to be faster on an
H200. Ours do what no library does (maps that are counted), float32's 1x1, which cuBLAS would not multiply as torch's
flag of convolutions says, and everything where results have to be the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops import _cudnn
from htc_fast.ops.triton.epilogue import ALL, COUNTED, PLAIN, wanted_rows
from htc_fast.ops.triton.launch import cdiv, launch, next_power_of_two
from htc_fast.ops.triton.matrix import product, rows_of
from htc_fast.ops.triton.tiles import device_of, gradient_tile, precision

convolution_backward = torch.ops.aten.convolution_backward


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
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    first = tl.program_id(0) * span
    last = tl.minimum(first + span, rows)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        place = row.to(tl.int64)[:, None] * outputs + o[None, :]
        known = (row < last)[:, None] & (o < outputs)[None, :]
        value = tl.load(grad + place, mask=known, other=0.0)
        if HAS_OUT:
            value = tl.where(tl.load(out + place, mask=known, other=0.0) > 0, value, 0.0)
            tl.store(gated + place, value, mask=known)
        total += value.to(tl.float32)
    place = sums + tl.program_id(0).to(tl.int64) * outputs + o
    tl.store(place, tl.sum(total, axis=0), mask=o < outputs)  # once: across warps it takes a barrier


def by_library(x: Tensor, forced: bool) -> bool:
    """Whether cuDNN and cuBLAS may do the gradients of x: on a GPU, where the same bits are not asked for.

    forced  whether Triton was, as the forward ran: gradients are made in another thread, or later
    """
    return not forced and x.is_cuda and x.numel() > 0 and _cudnn.allowed()


def pixels(maps: Tensor) -> Tensor:
    """Maps [K, C, H, W] that are `rows_of` as the matrix [K * H * W, C]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def by_cudnn(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool]) -> tuple | None:
    """Gradients of a 3x3's x and weight as far as they are needed; None where cuDNN has no way to."""
    ones = [1, 1]  # stride, padding and dilation
    layer = ones, ones, ones, False, [0, 0], 1
    try:
        found = convolution_backward(grad, rows_of(x), weight, None, *layer, [*needed, False])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # no engine for these maps
        return None
    return tuple(None if one is None else rows_of(one) for one in found[:2])


def pointwise_gradient(grad: Tensor, weight: Tensor, library: bool) -> Tensor:
    """grad [K, O, H, W] times weight [O, C], however that lies in memory: the gradient of what a 1x1 took in.

    library  whether cuBLAS may do it
    """
    grad = rows_of(grad)
    count, _, height, width = grad.shape
    if library and grad.element_size() == 2:
        found = torch.mm(pixels(grad), weight).to(grad.dtype)  # autocast may have made it another's
        return found.view(count, height, width, -1).permute(0, 3, 1, 2)
    return product(grad, weight, weight.shape[1], (weight.stride(0), weight.stride(1), 0), 1, PLAIN)


def weight_gradient(
    grad: Tensor, x: Tensor, taps: int, count: Tensor | None = None, exact: bool = False, library: bool = False
) -> Tensor:
    """grad [K, O, H, W], x [K, C, H, W] -> [O, taps, C], float32 or, by a library, of x's type.

    Ours adds in an order that sizes and device alone decide.

    count    [N] or None: only the first count[n] of each image's maps are read
    exact    no TF32, whatever the flag says
    library  whether cuBLAS may do a 1x1's, without count
    """
    grad, x = rows_of(grad), rows_of(x)
    (number, channels, height, width), outputs = x.shape, grad.shape[1]
    rows = number * height * width
    if not rows:
        return x.new_zeros(outputs, taps, channels, dtype=torch.float32)
    if library and taps == 1 and x.element_size() == 2:
        return torch.mm(pixels(grad).t(), pixels(x)).view(outputs, 1, channels)
    exact = exact or precision(x.dtype) == "ieee"
    tile = gradient_tile(x, outputs, channels, exact)
    tiles = cdiv(outputs, tile.rows) * taps * cdiv(channels, tile.outputs)
    parts = max(1, min(2 * device_of(x).processors // tiles, cdiv(rows, 8 * tile.depth)))
    span = cdiv(cdiv(rows, parts), tile.depth) * tile.depth
    sums = x.new_empty(parts, outputs, taps, channels, dtype=torch.float32)
    choice, per_image = (x, 1) if count is None else (count, number // len(count))
    sizes = rows, height, width, per_image, channels, outputs, span
    kind = {"TAPS": taps, "WANTED": ALL if count is None else COUNTED, "PRECISION": "ieee" if exact else "tf32"}
    blocks = {"OUTPUTS": tile.rows, "CHANNELS": tile.outputs, "DEPTH": tile.depth}
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}
    grid = tiles, parts
    launch(weight_gradient_kernel, grid, x.device, grad, x, sums, choice, *sizes, **kind, **blocks, **options)
    return sums[0] if parts == 1 else sums.sum(dim=0)


def gate(grad: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """grad [K, O, H, W] where out > 0 (everywhere if out is None), and its sum over all pixels [O] float32."""
    grad = rows_of(grad)
    outputs, rows = grad.shape[1], grad.numel() // max(grad.shape[1], 1)
    gated = grad if out is None else torch.empty_like(grad, memory_format=torch.channels_last)
    if not rows:
        return gated, grad.new_zeros(outputs, dtype=torch.float32)
    block = min(max(16, next_power_of_two(outputs)), 256)
    # Four programs on each of 132 multiprocessors have enough on its way, each with whole steps of 16 rows.
    span = cdiv(cdiv(rows, 528), 16) * 16
    programs = cdiv(rows, span)
    sums = grad.new_empty(programs, outputs, dtype=torch.float32)
    grid, seen = (programs, cdiv(outputs, block)), grad if out is None else rows_of(out)
    options = {"HAS_OUT": out is not None, "ROWS": 16, "OUTPUTS": block}
    launch(gate_kernel, grid, grad.device, grad, seen, gated, sums, rows, outputs, span, **options)
    return gated, sums.sum(dim=0)
