"""The end of a mask head in one launch, in Triton: 2x2 deconvolution, ReLU, 1x1 logits of one class or of all.

A pixel of the input makes four of the output, each from a product of its own. The 28 x 28 x 256 map between
deconvolution and logits stays in registers.
"""

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import relu
from htc_fast.ops.triton.launch import cdiv, check_floats, launch, next_power_of_two
from htc_fast.ops.triton.mask_predict_resident import plan_for, predict_class_resident
from htc_fast.ops.triton.matrix import new_maps, rows_of
from htc_fast.ops.triton.tiles import chain_tile, device_of, precision

SIZES = ["rows", "height", "width"]


@triton.jit
def up_tile(
    layer,  # x [rows, channels], one pixel per row; weight [channels, 2, 2, outputs]; bias [outputs]
    row,  # [ROWS] pixels of the tile
    live,  # [ROWS] whether they are there and wanted
    o,  # [OUTPUTS] outputs of the tile
    corner,  # 0 to 3: which of a pixel's four
    sizes,  # channels, outputs
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,  # channels of a step
):
    """relu of the deconvolution at one corner of every pixel: [ROWS, OUTPUTS] float32."""
    x, weight, bias = layer  # one tuple at a time: Triton 3.6 takes no nested targets
    channels, outputs = sizes
    here = x + row.to(tl.int64)[:, None] * channels
    columns = weight + (corner * outputs + o)[None, :]
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for k in range(tl.cdiv(channels, DEPTH)):
        c = k * DEPTH + tl.arange(0, DEPTH)
        if EVEN:
            left = tl.load(here + c[None, :], mask=live[:, None], other=0.0)
            right = tl.load(columns + (c * 4 * outputs)[:, None], mask=(o < outputs)[None, :], other=0.0)
        else:
            there = c < channels
            left = tl.load(here + c[None, :], mask=live[:, None] & there[None, :], other=0.0)
            mask = (o < outputs)[None, :] & there[:, None]
            right = tl.load(columns + (c * 4 * outputs)[:, None], mask=mask, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
    return relu(total)


@triton.jit
def pixel_of(row, corner, height, width):
    """Where a corner of input pixel `row` lies among the pixels of the output."""
    y, x = row // width % height * 2 + corner // 2, row % width * 2 + corner % 2
    return ((row // (height * width)).to(tl.int64) * (2 * height) + y) * (2 * width) + x


@triton.jit(do_not_specialize=SIZES)
def predict_class_kernel(
    x,  # [rows, channels], one pixel per row
    up_weight,  # [channels, 2, 2, outputs]
    up_bias,  # [outputs]
    weight,  # [classes, outputs]
    bias,  # [classes]
    labels,  # [K]: the class wanted of each map; no class gives zeros
    out,  # [K, 2H, 2W]
    rows,  # K * H * W
    height,
    width,
    channels,
    outputs,
    classes,
    share,  # of this head in the mean
    MEAN: tl.constexpr,  # 0: logits; 1: share * their sigmoid; 2: that, added to what is there
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs,
    DEPTH: tl.constexpr,  # the channels of a step
):
    """The logit of each map's own class. One program: one corner of ROWS pixels."""
    # The four corners of the same rows are neighbours, so that rows are read from memory once.
    corner = tl.program_id(0) % 4
    row = tl.program_id(0) // 4 * ROWS + tl.arange(0, ROWS)
    label = tl.load(labels + row // (height * width), mask=row < rows, other=-1)
    live = (label >= 0) & (label < classes)
    label = tl.where(live, label, 0)
    total = tl.zeros((ROWS,), tl.float32)
    # A tile of padding alone costs no product.
    blocks = tl.where(tl.max(live.to(tl.int32), axis=0) > 0, tl.cdiv(outputs, OUTPUTS), 0)
    for block in range(blocks):
        o = block * OUTPUTS + tl.arange(0, OUTPUTS)
        layer, sizes = (x, up_weight, up_bias), (channels, outputs)
        up = up_tile(layer, row, live, o, corner, sizes, EVEN, PRECISION, ROWS, OUTPUTS, DEPTH)
        mask = live[:, None] & (o < outputs)[None, :]
        own = tl.load(weight + label[:, None] * outputs + o[None, :], mask=mask, other=0.0)
        total += tl.sum(up * own.to(tl.float32), axis=1)
    total += tl.load(bias + label, mask=live, other=0.0).to(tl.float32)
    place = out + pixel_of(row, corner, height, width)
    if MEAN != 0:
        total = share * tl.sigmoid(total)
        if MEAN == 2:
            total += tl.load(place, mask=row < rows, other=0.0)
    tl.store(place, tl.where(live, total, 0.0).to(out.dtype.element_ty), mask=row < rows)


@triton.jit(do_not_specialize=SIZES)
def predict_all_kernel(
    x,  # [rows, channels], one pixel per row
    up_weight,  # [channels, 2, 2, outputs]
    up_bias,  # [outputs]
    weight,  # [classes, outputs]
    bias,  # [classes]
    out,  # [K, 2H, 2W, classes]
    rows,  # K * H * W
    height,
    width,
    channels,
    outputs,
    classes,
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs,
    DEPTH: tl.constexpr,  # the channels of a step,
    CLASSES: tl.constexpr,  # and the classes of a program
):
    """The logits of a block of classes: the deconvolution's tile is the left side of a second product."""
    corner = tl.program_id(0) % 4
    row = tl.program_id(0) // 4 * ROWS + tl.arange(0, ROWS)
    kind = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    total = tl.zeros((ROWS, CLASSES), tl.float32)
    for block in range(tl.cdiv(outputs, OUTPUTS)):
        o = block * OUTPUTS + tl.arange(0, OUTPUTS)
        layer, sizes = (x, up_weight, up_bias), (channels, outputs)
        up = up_tile(layer, row, row < rows, o, corner, sizes, EVEN, PRECISION, ROWS, OUTPUTS, DEPTH)
        mask = (kind < classes)[None, :] & (o < outputs)[:, None]
        turned = tl.load(weight + kind[None, :] * outputs + o[:, None], mask=mask, other=0.0)
        total = tl.dot(up.to(turned.dtype), turned, total, input_precision=PRECISION)
    total += tl.load(bias + kind, mask=kind < classes, other=0.0).to(tl.float32)[None, :]
    place = pixel_of(row, corner, height, width)[:, None] * classes + kind[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (kind < classes)[None, :])


def sizes_of(x: Tensor, up_weight: Tensor, weight: Tensor) -> tuple[int, ...]:
    """rows, height, width, channels, outputs, classes"""
    count, channels, height, width = x.shape
    return count * height * width, height, width, channels, up_weight.shape[1], weight.shape[0]


def predict_class(
    x: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    out: Tensor,
    mean: int = 0,
    share: float = 1.0,
) -> Tensor:
    """Fill out [K, 2H, 2W] with the logits of labels [K]; mean 1, 2: set to, or add, share * sigmoid."""
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), sizes_of(x, up_weight, weight)
    rows, channels = sizes[0], sizes[3]
    given = [x, up_weight, *(one.contiguous() for one in (up_bias, weight, bias, labels))]
    plan = plan_for(x, sizes[4], device_of(x))
    if plan is not None and rows:
        predict_class_resident(given, out, sizes, plan, mean, share)
        return out
    tile = chain_tile(x, 64 if x.element_size() == 4 else 128, 128)
    programs, options = 4 * cdiv(rows, tile.rows), tile.options(channels, x.dtype)
    launch(predict_class_kernel, programs, x.device, *given, out, *sizes, share, MEAN=mean, **options)
    return out


def mask_predict(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor | None
) -> Tensor:
    check_floats("x", x)
    if labels is not None:
        out = x.new_empty(x.shape[0], 2 * x.shape[2], 2 * x.shape[3])
        return predict_class(x, up_weight, up_bias, weight, bias, labels, out)
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), sizes_of(x, up_weight, weight)
    rows, height, width, channels, _, classes = sizes
    # Without tensor cores both factors of the second product lie in registers.
    tile = chain_tile(x, 32, 32) if precision(x.dtype) == "ieee" else chain_tile(x, 64, 128)
    out = new_maps(x, classes, 2 * height, 2 * width)
    block = max(16, min(128, next_power_of_two(classes)))
    programs, options = (4 * cdiv(rows, tile.rows), cdiv(classes, block)), tile.options(channels, x.dtype)
    given = [x, up_weight, *(one.contiguous() for one in (up_bias, weight, bias))]
    launch(predict_all_kernel, programs, x.device, *given, out, *sizes, CLASSES=block, **options)
    return out
