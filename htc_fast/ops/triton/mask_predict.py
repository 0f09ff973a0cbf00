"""The end of a mask head in one launch, in Triton: 2x2 deconvolution, ReLU, 1x1 logits of one class or of all.

A pixel of the input makes four of the output, each from a product of its own. The 28 x 28 x 256 map between
deconvolution and logits stays in registers.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import PLAIN, relu
from htc_fast.ops.triton.launch import check_floats, launch
from htc_fast.ops.triton.matrix import gate, new_maps, product, rows_of, weight_gradient
from htc_fast.ops.triton.tiles import chain_tile, precision

SIZES = ["rows", "height", "width"]


@triton.jit
def up_tile(x, weight, bias, row, live, o, corner, channels, outputs, EVEN: tl.constexpr, PRECISION: tl.constexpr,
            ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """relu of the deconvolution at one corner of every pixel; weight lies as [channels, 2, 2, outputs]"""
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
            right = tl.load(columns + (c * 4 * outputs)[:, None], mask=(o < outputs)[None, :] & there[:, None],
                            other=0.0)  # fmt: skip
        total = tl.dot(left, right, total, input_precision=PRECISION)
    total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
    return relu(total)


@triton.jit
def pixel_of(row, corner, height, width):
    """Where a corner of input pixel `row` lies among the pixels of the output."""
    y, x = row // width % height * 2 + corner // 2, row % width * 2 + corner % 2
    return ((row // (height * width)).to(tl.int64) * (2 * height) + y) * (2 * width) + x


@triton.jit(do_not_specialize=SIZES)
def predict_class_kernel(x, up_weight, up_bias, weight, bias, labels, out, rows, height, width, channels, outputs,
                         classes, share, MEAN: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
                         ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """The logit of each map's own class. MEAN 1: share * its sigmoid instead; 2: added to what is there."""
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
        up = up_tile(x, up_weight, up_bias, row, live, o, corner, channels, outputs, EVEN, PRECISION, ROWS, OUTPUTS,
                     DEPTH)  # fmt: skip
        own = tl.load(weight + label[:, None] * outputs + o[None, :], mask=live[:, None] & (o < outputs)[None, :],
                      other=0.0)  # fmt: skip
        total += tl.sum(up * own.to(tl.float32), axis=1)
    total += tl.load(bias + label, mask=live, other=0.0).to(tl.float32)
    place = out + pixel_of(row, corner, height, width)
    if MEAN != 0:
        total = share * tl.sigmoid(total)
        if MEAN == 2:
            total += tl.load(place, mask=row < rows, other=0.0)
    tl.store(place, tl.where(live, total, 0.0).to(out.dtype.element_ty), mask=row < rows)


@triton.jit(do_not_specialize=SIZES)
def predict_all_kernel(x, up_weight, up_bias, weight, bias, out, rows, height, width, channels, outputs, classes,
                       EVEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
                       DEPTH: tl.constexpr, CLASSES: tl.constexpr):  # fmt: skip
    """The logits of a block of classes: the deconvolution's tile is the left side of a second product."""
    corner = tl.program_id(0) % 4
    row = tl.program_id(0) // 4 * ROWS + tl.arange(0, ROWS)
    kind = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    total = tl.zeros((ROWS, CLASSES), tl.float32)
    for block in range(tl.cdiv(outputs, OUTPUTS)):
        o = block * OUTPUTS + tl.arange(0, OUTPUTS)
        up = up_tile(x, up_weight, up_bias, row, row < rows, o, corner, channels, outputs, EVEN, PRECISION, ROWS,
                     OUTPUTS, DEPTH)  # fmt: skip
        turned = tl.load(weight + kind[None, :] * outputs + o[:, None],
                         mask=(kind < classes)[None, :] & (o < outputs)[:, None], other=0.0)  # fmt: skip
        total = tl.dot(up.to(turned.dtype), turned, total, input_precision=PRECISION)
    total += tl.load(bias + kind, mask=kind < classes, other=0.0).to(tl.float32)[None, :]
    place = pixel_of(row, corner, height, width)[:, None] * classes + kind[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (kind < classes)[None, :])


@triton.jit(do_not_specialize=SIZES)
def predict_backward_kernel(x, up_weight, up_bias, weight, labels, grad, up_out, up_grad, rows, height, width, channels,
                            outputs, classes, ONE: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
                            ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
                            CLASSES: tl.constexpr):  # fmt: skip
    """The deconvolution made again, and its gradient: up_out as a map, up_grad [rows, 4, outputs]."""
    corner = tl.program_id(0) % 4
    row = tl.program_id(0) // 4 * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = (row < rows)[:, None] & (o < outputs)[None, :]
    up = up_tile(x, up_weight, up_bias, row, row < rows, o, corner, channels, outputs, EVEN, PRECISION, ROWS, OUTPUTS,
                 DEPTH)  # fmt: skip
    pixel = pixel_of(row, corner, height, width)
    if ONE:
        label = tl.load(labels + row // (height * width), mask=row < rows, other=-1)
        live = (label >= 0) & (label < classes)
        own = tl.load(weight + tl.where(live, label, 0)[:, None] * outputs + o[None, :], mask=known & live[:, None],
                      other=0.0)  # fmt: skip
        total = tl.load(grad + pixel, mask=live, other=0.0).to(tl.float32)[:, None] * own.to(tl.float32)
    else:
        total = tl.zeros((ROWS, OUTPUTS), tl.float32)
        for k in range(tl.cdiv(classes, CLASSES)):
            kind = k * CLASSES + tl.arange(0, CLASSES)
            left = tl.load(grad + pixel[:, None] * classes + kind[None, :],
                           mask=(row < rows)[:, None] & (kind < classes)[None, :], other=0.0)  # fmt: skip
            right = tl.load(weight + kind[:, None] * outputs + o[None, :],
                            mask=(kind < classes)[:, None] & (o < outputs)[None, :], other=0.0)  # fmt: skip
            total = tl.dot(left, right, total, input_precision=PRECISION)
    total = tl.where(up > 0, total, 0.0)
    tl.store(up_out + pixel[:, None] * outputs + o[None, :], up.to(up_out.dtype.element_ty), mask=known)
    place = (row.to(tl.int64) * 4 + corner)[:, None] * outputs + o[None, :]
    tl.store(up_grad + place, total.to(up_grad.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=["pixels"])
def class_sum_kernel(up, grad, out, pixels, outputs, PIXELS: tl.constexpr, OUTPUTS: tl.constexpr):
    """out[k, o] = sum over map k's pixels of grad * up."""
    k, o = tl.program_id(0).to(tl.int64), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS,), tl.float32)
    for start in range(0, pixels, PIXELS):
        at = start + tl.arange(0, PIXELS)
        value = tl.load(up + (k * pixels + at)[:, None] * outputs + o[None, :],
                        mask=(at < pixels)[:, None] & (o < outputs)[None, :], other=0.0)  # fmt: skip
        factor = tl.load(grad + k * pixels + at, mask=at < pixels, other=0.0)
        total += tl.sum(value.to(tl.float32) * factor.to(tl.float32)[:, None], axis=0)
    tl.store(out + k * outputs + o, total, mask=o < outputs)


def _sizes(x: Tensor, up_weight: Tensor, weight: Tensor) -> tuple[int, ...]:
    """rows, height, width, channels, outputs, classes"""
    count, channels, height, width = x.shape
    return count * height * width, height, width, channels, up_weight.shape[1], weight.shape[0]


def predict_class(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor,
                  out: Tensor, mean: int = 0, share: float = 1.0) -> Tensor:  # fmt: skip
    """Fill out [K, 2H, 2W] with the logits of labels [K]; mean 1, 2: set to, or add, share * sigmoid."""
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), _sizes(x, up_weight, weight)
    rows, channels = sizes[0], sizes[3]
    tile = chain_tile(x, 64 if x.element_size() == 4 else 128, 128)
    launch(predict_class_kernel, 4 * triton.cdiv(rows, tile.rows), x.device, x, up_weight, up_bias.contiguous(),
           weight.contiguous(), bias.contiguous(), labels.contiguous(), out, *sizes, share, MEAN=mean,
           EVEN=channels % tile.depth == 0, PRECISION=precision(x.dtype), ROWS=tile.rows, OUTPUTS=tile.outputs,
           DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True)  # fmt: skip
    return out


def mask_predict(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor,
                 labels: Tensor | None) -> Tensor:  # fmt: skip
    check_floats("x", x)
    if labels is not None:
        out = x.new_empty(len(x), 2 * x.shape[2], 2 * x.shape[3])
        return predict_class(x, up_weight, up_bias, weight, bias, labels, out)
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), _sizes(x, up_weight, weight)
    rows, height, width, channels, _, classes = sizes
    # Without tensor cores both factors of the second product lie in registers.
    tile = chain_tile(x, 32, 32) if precision(x.dtype) == "ieee" else chain_tile(x, 64, 128)
    out = new_maps(x, classes, 2 * height, 2 * width)
    block = max(16, min(128, triton.next_power_of_2(classes)))
    launch(predict_all_kernel, (4 * triton.cdiv(rows, tile.rows), triton.cdiv(classes, block)), x.device, x, up_weight,
           up_bias.contiguous(), weight.contiguous(), bias.contiguous(), out, *sizes, EVEN=channels % tile.depth == 0,
           PRECISION=precision(x.dtype), ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, CLASSES=block,
           num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True)  # fmt: skip
    return out


def mask_predict_backward(grad: Tensor, x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor,
                          labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, up_weight, up_bias, weight and bias."""
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), _sizes(x, up_weight, weight)
    rows, height, width, channels, outputs, classes = sizes
    grad = grad.contiguous() if labels is not None else rows_of(grad)
    up, up_grad = new_maps(x, outputs, 2 * height, 2 * width), new_maps(x, 4 * outputs, height, width)
    small = labels is None and precision(x.dtype) == "ieee"
    tile = chain_tile(x, 32, 64) if small else chain_tile(x, 64, 128 if x.element_size() == 4 else 256)
    block = max(16, min(32 if small else 64, triton.next_power_of_2(classes)))
    launch(predict_backward_kernel, (4 * triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs)), x.device, x,
           up_weight, up_bias.contiguous(), weight.contiguous(), x if labels is None else labels.contiguous(), grad, up,
           up_grad, *sizes, ONE=labels is not None, EVEN=channels % tile.depth == 0, PRECISION=precision(x.dtype),
           ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, CLASSES=block, num_warps=tile.warps,
           num_stages=tile.stages, enable_fp_fusion=True)  # fmt: skip
    x_grad = product(up_grad, up_weight, channels, (1, 4 * outputs, 0), 1, PLAIN)
    turned = weight_gradient(x, up_grad, 1).to(weight.dtype).view(channels, 2, 2, outputs).permute(0, 3, 1, 2)
    up_bias_grad = gate(up_grad)[1].view(4, outputs).sum(dim=0).to(weight.dtype)
    if labels is None:
        weight_grad, bias_grad = weight_gradient(grad, up, 1), gate(grad)[1]
    else:
        weight_grad, bias_grad = _class_gradients(up, grad, labels, classes)
    weight_grad = weight_grad.to(weight.dtype).view_as(weight)
    return x_grad, turned, up_bias_grad, weight_grad, bias_grad.to(weight.dtype)


def _class_gradients(up: Tensor, grad: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Gradients of the logits' weight [classes, outputs] and bias [classes] from grad [K, 2H, 2W] of one class each."""
    outputs, pixels = up.shape[1], grad.shape[1] * grad.shape[2]
    own = grad.new_empty(len(grad), outputs, dtype=torch.float32)
    block = max(16, min(256, triton.next_power_of_2(outputs)))
    launch(class_sum_kernel, (len(grad), triton.cdiv(outputs, block)), grad.device, up, grad, own, pixels, outputs,
           PIXELS=16, OUTPUTS=block)  # fmt: skip
    # Labels as columns, those out of range as none: the classes' sums are then a product, in a fixed order.
    known = (labels >= 0) & (labels < classes)
    chosen = F.one_hot(labels.long().clamp(0, classes - 1), classes) * known[:, None]
    both = torch.cat([own, grad.float().flatten(1).sum(dim=1, keepdim=True)], dim=1)
    sums = weight_gradient(chosen.float()[:, :, None, None], both[:, :, None, None], 1, exact=True)[:, 0]
    # Apart from each other: an operator's results may not share memory.
    return sums[:, :outputs].clone(memory_format=torch.contiguous_format), sums[:, outputs].clone()
