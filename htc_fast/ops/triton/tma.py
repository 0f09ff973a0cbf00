"""3x3 convolutions whose tiles a GPU's bulk copies (TMA) bring in: no address or mask is computed per pixel.

A tile is a box of maps x lines x columns, such as four RoIs' lines 2 and 3 in columns 0 to 15. A tap is the same box
one pixel further, and what lies beyond the border arrives as zeros. The product is turned, weights on its left:
so both sides stay in shared memory (the other way round Triton takes the box through registers).
"""

import math
import warnings
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from htc_fast.ops.triton.epilogue import ALL, COUNTED, PLAIN, RELU, SUM, epilogue, wanted_rows
from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.tiles import Tile, precision


@triton.jit
def copied_sum(
    x,  # descriptor of [K, H, W, channels]
    weight,  # descriptor of [outputs, 9 * channels] or, TURNED, [channels, 9 * outputs]
    total,  # [OUTPUTS, pixels] float32
    corner,  # where the box begins: map, line, column; and the tile's first output
    sizes,  # channels, outputs
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,  # channels of a step
):
    """total and the nine taps' products for one box."""
    image, line, column, o = corner
    channels, outputs = sizes
    for k in range(9 * tl.cdiv(channels, DEPTH)):
        tap, c = k % 9, k // 9 * DEPTH
        box = x.load([image, line + (tap // 3 - 1), column + (tap % 3 - 1), c])
        if TURNED:
            left = tl.trans(weight.load([c, (8 - tap) * outputs + o]))
        else:
            left = weight.load([o, tap * channels + c])
        right = tl.trans(tl.reshape(box, (total.shape[1], DEPTH)))
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["count", "height", "width", "per_image"])
def tma_kernel(
    x,  # descriptor of [K, H, W, channels]
    weight,  # descriptor of [outputs, 9 * channels] or, TURNED, [channels, 9 * outputs]
    bias,  # [outputs]
    extra,  # [K, H, W, outputs]: what is added or gated, where HAS_EXTRA
    out,  # [K, H, W, outputs]
    choice,  # counts [N] or labels [K]: which maps are wanted, as WANTED says
    count,  # K
    height,
    width,
    per_image,  # K / N
    channels,
    outputs,
    TURNED: tl.constexpr,  # whether the taps run backwards
    EPILOGUE: tl.constexpr,  # what becomes of the sum
    HAS_EXTRA: tl.constexpr,
    WANTED: tl.constexpr,
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    MAPS: tl.constexpr,  # of a box,
    LINES: tl.constexpr,  # its lines
    COLUMNS: tl.constexpr,  # and columns
    OUTPUTS: tl.constexpr,  # of a tile
    DEPTH: tl.constexpr,  # channels of a step
):
    """As `product_kernel` with nine taps."""
    tiles, across, down = tl.cdiv(outputs, OUTPUTS), tl.cdiv(width, COLUMNS), tl.cdiv(height, LINES)
    first_output, box = tl.program_id(0) % tiles * OUTPUTS, tl.program_id(0) // tiles
    first_map = box // across // down * MAPS
    first_line, first_column = box // across % down * LINES, box % across * COLUMNS
    pixel = tl.arange(0, MAPS * LINES * COLUMNS)
    image = first_map + pixel // (LINES * COLUMNS)
    line, column = first_line + pixel // COLUMNS % LINES, first_column + pixel % COLUMNS
    there = (image < count) & (line < height) & (column < width)
    live = wanted_rows(image, choice, per_image, WANTED, there)
    total = tl.zeros((OUTPUTS, MAPS * LINES * COLUMNS), tl.float32)
    corner, sizes = (first_map, first_line, first_column, first_output), (channels, outputs)
    # A box of padding alone costs no product. A number of steps read from memory would leave the uniform registers.
    if WANTED == 0:
        total = copied_sum(x, weight, total, corner, sizes, TURNED, PRECISION, DEPTH)
    elif tl.max(live.to(tl.int32), axis=0) > 0:
        total = copied_sum(x, weight, total, corner, sizes, TURNED, PRECISION, DEPTH)
    o = first_output + tl.arange(0, OUTPUTS)
    place = ((image.to(tl.int64) * height + line) * width + column)[:, None] * outputs + o[None, :]
    known = there[:, None] & (o < outputs)[None, :]
    epilogue(tl.trans(total), bias, extra, out, place, place, known, live, o, outputs, EPILOGUE, HAS_EXTRA)


def tma_product(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    tile: Tile,
    turned: bool,
    epilogue: int = PLAIN,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    choice: Tensor | None = None,
    wanted: int = ALL,
    per_image: int = 1,
) -> None:
    """Fill out [K, O, H, W] from x [K, C, H, W] and a weight that lies as [O, 9, C], turned as [C, 9, O]."""
    (count, channels, height, width), outputs = x.shape, out.shape[1]
    assert tile.box is not None, "a tile without a box cannot be copied in bulk"
    maps, lines, columns = tile.box
    last = x.permute(0, 2, 3, 1)
    source = TensorDescriptor(last, list(last.shape), _strides(last.shape), [maps, lines, columns, tile.depth])
    rows, length = (channels, 9 * outputs) if turned else (outputs, 9 * channels)
    block = [tile.depth, tile.outputs] if turned else [tile.outputs, tile.depth]
    matrix = TensorDescriptor(weight, [rows, length], [length, 1], block)
    programs = tile.tiles(count, height, width, outputs)
    operands = [out if one is None else one for one in (bias, extra, out, choice)]
    sizes = count, height, width, per_image, channels, outputs
    kind = {"TURNED": turned, "EPILOGUE": epilogue, "HAS_EXTRA": extra is not None, "WANTED": wanted}
    box = {"MAPS": maps, "LINES": lines, "COLUMNS": columns}
    options = {name: value for name, value in tile.options(channels, x.dtype).items() if name not in ("EVEN", "ROWS")}
    launch(tma_kernel, programs, x.device, source, matrix, *operands, *sizes, **kind, **box, **options)


def _strides(shape: torch.Size) -> list[int]:
    """Of a dense tensor; those that torch keeps for sides of one may be anything."""
    return [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1]


def takes(x: Tensor, weight: Tensor, outputs: int, turned: bool) -> bool:
    """Whether bulk copies can bring in these: whole steps of channels, addresses and rows in units of 16 bytes."""
    channels, size = x.shape[1], x.element_size()
    if channels % (128 // size) or x.data_ptr() % 16 or weight.data_ptr() % 16:
        return False
    if size == 4 and (turned or precision(x.dtype) == "ieee"):
        return False  # tensor cores read float32 along the sum alone; without them registers are the better place
    return outputs * size % 16 == 0


@dataclass(frozen=True)
class Variant:
    """What the kernel is compiled for, and with it what could go wrong in one and not in another."""

    dtype: torch.dtype
    precision: str
    tile: Tile
    turned: bool
    epilogue: int
    has_extra: bool
    wanted: int


_agreeing: dict[tuple[int | None, Variant], bool] = {}


def trusted(x: Tensor, tile: Tile, turned: bool, epilogue: int, has_extra: bool, wanted: int) -> bool:
    """Whether this very kernel was seen to agree with torch on x's device; looked at once each, at first use.

    One that does not is never used, with one warning: its convolutions are gathered.
    """
    variant = Variant(x.dtype, precision(x.dtype), tile, turned, epilogue, has_extra, wanted)
    gpu = x.device.type == "cuda"
    index = (torch.cuda.current_device() if x.device.index is None else x.device.index) if gpu else None
    if (index, variant) not in _agreeing:
        if gpu and (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode() == 2):
            return False  # one look means waiting: not now
        try:
            problem = None if _agrees(x.device, variant) else "its results differ from torch's"
        except Exception as error:  # whatever a compiler or driver stumbles over, the other kernel still works
            problem = str(error)
        if problem is not None:
            warnings.warn(f"3x3 convolutions go without bulk copies by {variant}: {problem}.", stacklevel=2)
        _agreeing[index, variant] = problem is None
    return _agreeing[index, variant]


@torch.no_grad()
def _agrees(device: torch.device, variant: Variant) -> bool:
    """One small convolution by the kernel and by torch: whole boxes and cut ones, along every axis and in outputs."""
    tile, last = variant.tile, {"memory_format": torch.channels_last}
    assert tile.box is not None
    maps, lines, columns = tile.box
    count, height, width, channels, outputs = maps + 1, lines + 1, columns + 1, 2 * tile.depth, tile.outputs + 16

    def ramp(*shape: int, period: int) -> Tensor:
        values = torch.arange(math.prod(shape), device=device) % period / period - 0.5
        return values.view(shape).to(variant.dtype).contiguous(**(last if len(shape) == 4 else {}))

    x = ramp(count, channels, height, width, period=251)
    weight = ramp(*((channels, outputs) if variant.turned else (outputs, channels)), 3, 3, period=241)
    bias, extra = ramp(outputs, period=7), ramp(count, outputs, height, width, period=239)
    found = torch.full_like(extra, torch.nan)
    # Of one image, all maps but the last one; or labels, of which the last one is none.
    choice = torch.tensor([maps] if variant.wanted == COUNTED else [0] * maps + [-1], device=device)
    per_image = count if variant.wanted == COUNTED else 1
    given = (extra if variant.has_extra else None), choice, variant.wanted, per_image
    tma_product(x, weight, found, tile, variant.turned, variant.epilogue, bias, *given)
    convolve = torch.nn.functional.conv_transpose2d if variant.turned else torch.nn.functional.conv2d
    with torch.autocast(device.type, enabled=False):
        wanted = convolve(x.float(), weight.float(), padding=1)
    if variant.epilogue in (RELU, SUM):
        wanted = wanted + bias.float()[:, None, None] + (extra.float() if variant.has_extra else 0)
        wanted = wanted.relu() if variant.epilogue == RELU else wanted
    if variant.wanted != ALL:
        wanted[maps:] = 0
    return bool((wanted - found).abs().amax() <= 0.02 * wanted.abs().amax())
