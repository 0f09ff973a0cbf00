"""1x1 convolutions with a second map, by programs that keep their weights: memory bound them, not products.

The weights of 256 channels to 256 outputs, 128 KB in 16 bits, stay in a program's shared memory, and tiles of pixels
stream past them. While one is multiplied, its second map and the next one's pixels are on their way to registers. For
where it was seen to be the fastest on an H200: the laterals of up to 256 channels, and a backbone's 64 channels with a
residual; deeper ones, and a mask head's flow, it does more slowly than `product_kernel` or cuDNN.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import NEAREST, RELU, combined, nearest
from htc_fast.ops.triton.launch import cdiv, launch, power_of_two
from htc_fast.ops.triton.tiles import Device

ROWS = 64  # of a tile
DEEPEST = {NEAREST: 256, RELU: 64}  # what this kernel is used for, if there is a second map: up to so many channels


@triton.jit
def pixels_of(x, tile, rows, c, channels, EVEN: tl.constexpr, ROWS: tl.constexpr):
    """A tile's rows of x [rows, channels]; zeros beyond the last."""
    inside = tl.arange(0, ROWS)
    known = (inside < rows - tile * ROWS)[:, None]
    if not EVEN:
        known = known & (c < channels)[None, :]
    start = x + tl.cast(tile * ROWS, tl.int64) * channels
    return tl.load(start + (inside[:, None] * channels + c[None, :]), mask=known, other=0.0)


@triton.jit(do_not_specialize=["rows", "height", "width", "other_height", "other_width", "inverse", "strips"])
def product_resident_kernel(
    x,  # [K, H, W, channels]
    weight,  # [outputs, channels]
    bias,  # [outputs]
    extra,  # [K, H, W, outputs], of its own size for NEAREST
    out,  # [K, H, W, outputs]
    rows,  # K * H * W
    height,
    width,
    other_height,  # of extra
    other_width,
    channels,
    outputs,
    inverse,  # of width, in units of 2**-32, rounded up
    strips,  # programs that share the rows
    EPILOGUE: tl.constexpr,  # what becomes of the sum
    HALVED: tl.constexpr,  # whether extra has half the height and half the width
    EVEN: tl.constexpr,  # whether CHANNELS are the channels, and OUTPUTS divides the outputs
    ROWS: tl.constexpr,  # of a tile; no more than a map's pixels, so that a tile touches two maps at most
    OUTPUTS: tl.constexpr,  # of a program
    CHANNELS: tl.constexpr,  # all, as a power of two
):
    """As `product_kernel` with one tap and a second map. One program: some outputs of every strips-th tile."""
    parts, pixels = tl.cdiv(outputs, OUTPUTS), height * width
    c, o = tl.arange(0, CHANNELS), tl.program_id(0) % parts * OUTPUTS + tl.arange(0, OUTPUTS)
    known_o = o < outputs
    columns = weight + (o.to(tl.int64)[None, :] * channels + c[:, None])
    if EVEN:
        right = tl.load(columns)
    else:
        right = tl.load(columns, mask=(c < channels)[:, None] & known_o[None, :], other=0.0)
    # Subtracted, not added: Triton would start the sum with a bias that is added.
    minus = -tl.load(bias + o, mask=known_o, other=0.0).to(tl.float32)
    first = tl.program_id(0) // parts
    left = pixels_of(x, first, rows, c, channels, EVEN, ROWS)
    for tile in range(first, tl.cdiv(rows, ROWS), strips):
        # Addresses within a tile are numbers of 32 bits: few instructions, and the same in every tile.
        image, start, inside = tile * ROWS // pixels, tl.cast(tile * ROWS, tl.int64) * outputs, tl.arange(0, ROWS)
        known = (inside < rows - tile * ROWS)[:, None]
        if not EVEN:
            known = known & known_o[None, :]
        place = inside[:, None] * outputs + o[None, :]
        pixel = tile * ROWS - image * pixels + inside
        is_next = pixel >= pixels
        if EPILOGUE == 5:
            pixel = tl.where(is_next, pixel - pixels, pixel)
            y = tl.umulhi(pixel.to(tl.uint32), inverse.to(tl.uint32)).to(tl.int32)
            column, line = pixel - y * width, tl.where(is_next, other_height, 0)
            if HALVED:
                other_row = (line + (y >> 1)) * other_width + (column >> 1)
            else:
                other_row = (line + nearest(y, other_height, height)) * other_width
                other_row += nearest(column, other_width, width)
            other_start = extra + image.to(tl.int64) * (other_height * other_width) * outputs
            other = tl.load(other_start + (other_row[:, None] * outputs + o[None, :]), mask=known, other=0.0)
        else:
            other = tl.load(extra + start + place, mask=known, other=0.0)
        coming = pixels_of(x, tile + strips, rows, c, channels, EVEN, ROWS)
        total = combined(tl.dot(left, right) - minus[None, :], other.to(tl.float32), EPILOGUE, True)
        tl.store(out + start + place, total.to(out.dtype.element_ty), mask=known)
        left = coming


@dataclass(frozen=True)
class Plan:
    """Rows of a tile, outputs of a program, padded channels, programs that share the rows, warps."""

    rows: int
    outputs: int
    channels: int
    strips: int
    warps: int = 8

    def shared(self) -> int:
        """Bytes: weights, a tile of pixels, and one of results on its way to whole lines."""
        return 2 * (self.channels * (self.outputs + self.rows) + self.rows * self.outputs) + 2048


def plan_for(x: Tensor, outputs: int, epilogue: int, device: Device) -> Plan | None:
    """How x [K, C, H, W] is done on this device; None where others are the better choice."""
    count, channels, height, width = x.shape
    meant = channels <= DEEPEST.get(epilogue, 0) and x.element_size() == 2
    if not meant or not device.warpgroups or not device.resident:
        return None
    # What addresses within two maps, and `inverse`, are exact for.
    if height * width < ROWS or width < 4 or height * width**2 >= 2**32 or height * width * outputs >= 2**30:
        return None
    deep = power_of_two(channels, 256, 64)
    # Shallow ones leave registers for two programs on a multiprocessor, which is better there.
    most, warps, each = (128, 4, 2) if deep == 64 else (256, 8, 1)
    wide = power_of_two(outputs, most, 32)
    plan = Plan(ROWS, wide, deep, max(1, each * device.processors // cdiv(outputs, wide)), warps)
    # Fewer tiles would not repay that every program reads its weights first.
    many = count * height * width > 2 * plan.strips * ROWS
    return plan if many and each * plan.shared() <= device.shared else None


def product_resident(
    x: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, out: Tensor, epilogue: int, plan: Plan
) -> None:
    """Fill out as `product` does with one tap; x, extra and out with pixels as rows, weight [outputs, channels]."""
    (count, channels, height, width), outputs = x.shape, out.shape[1]
    other, inverse = extra.shape[2:], cdiv(2**32, width)
    kind = {"EPILOGUE": epilogue, "HALVED": (2 * other[0], 2 * other[1]) == (height, width)}
    even = channels == plan.channels and outputs % plan.outputs == 0
    blocks = {"EVEN": even, "ROWS": plan.rows, "OUTPUTS": plan.outputs, "CHANNELS": plan.channels}
    options = {"num_warps": plan.warps, "num_stages": 1, "enable_fp_fusion": True}
    sizes = count * height * width, height, width, *other, channels, outputs, inverse, plan.strips
    programs = plan.strips * cdiv(outputs, plan.outputs)
    launch(
        product_resident_kernel, programs, x.device, x, weight, bias, extra, out, *sizes, **kind, **blocks, **options
    )
