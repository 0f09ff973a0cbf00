"""Gradient of the end of a mask head, in Triton: what the forward kept in registers is made again."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.gradients import by_library, gate, pointwise_gradient, weight_gradient
from htc_fast.ops.triton.launch import cdiv, launch, next_power_of_two
from htc_fast.ops.triton.mask_predict import SIZES, pixel_of, sizes_of, up_tile
from htc_fast.ops.triton.matrix import new_maps, rows_of
from htc_fast.ops.triton.tiles import chain_tile, precision


@triton.jit(do_not_specialize=SIZES)
def predict_backward_kernel(
    x,  # [rows, channels], one pixel per row
    up_weight,  # [channels, 2, 2, outputs]
    up_bias,  # [outputs]
    weight,  # [classes, outputs]
    labels,  # [K], where ONE
    grad,  # [K, 2H, 2W, classes] or, where ONE, [K, 2H, 2W]
    up_out,  # [K, 2H, 2W, outputs]
    up_grad,  # [rows, 4, outputs]
    rows,  # K * H * W
    height,
    width,
    channels,
    outputs,
    classes,
    ONE: tl.constexpr,  # whether logits were of one class
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,  # "tf32" or "ieee"
    ROWS: tl.constexpr,  # of a tile,
    OUTPUTS: tl.constexpr,  # its outputs,
    DEPTH: tl.constexpr,  # the channels of a step,
    CLASSES: tl.constexpr,  # and the classes of a step
):
    """The deconvolution made again, and its gradient."""
    corner = tl.program_id(0) % 4
    row = tl.program_id(0) // 4 * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = (row < rows)[:, None] & (o < outputs)[None, :]
    layer, sizes = (x, up_weight, up_bias), (channels, outputs)
    up = up_tile(layer, row, row < rows, o, corner, sizes, EVEN, PRECISION, ROWS, OUTPUTS, DEPTH)
    pixel = pixel_of(row, corner, height, width)
    if ONE:
        label = tl.load(labels + row // (height * width), mask=row < rows, other=-1)
        live = (label >= 0) & (label < classes)
        label = tl.where(live, label, 0)
        own = tl.load(weight + label[:, None] * outputs + o[None, :], mask=known & live[:, None], other=0.0)
        total = tl.load(grad + pixel, mask=live, other=0.0).to(tl.float32)[:, None] * own.to(tl.float32)
    else:
        total = tl.zeros((ROWS, OUTPUTS), tl.float32)
        for k in range(tl.cdiv(classes, CLASSES)):
            kind = k * CLASSES + tl.arange(0, CLASSES)
            mask = (row < rows)[:, None] & (kind < classes)[None, :]
            left = tl.load(grad + pixel[:, None] * classes + kind[None, :], mask=mask, other=0.0)
            mask = (kind < classes)[:, None] & (o < outputs)[None, :]
            right = tl.load(weight + kind[:, None] * outputs + o[None, :], mask=mask, other=0.0)
            total = tl.dot(left, right, total, input_precision=PRECISION)
    total = tl.where(up > 0, total, 0.0)
    tl.store(up_out + pixel[:, None] * outputs + o[None, :], up.to(up_out.dtype.element_ty), mask=known)
    place = (row.to(tl.int64) * 4 + corner)[:, None] * outputs + o[None, :]
    tl.store(up_grad + place, total.to(up_grad.dtype.element_ty), mask=known)


@triton.jit(do_not_specialize=["pixels"])
def class_sum_kernel(
    up,  # [K, pixels, outputs]
    grad,  # [K, pixels]
    out,  # [K, outputs] float32
    pixels,
    outputs,
    PIXELS: tl.constexpr,  # of a step
    OUTPUTS: tl.constexpr,  # of a program
):
    """out[k, o] = sum over map k's pixels of grad * up."""
    k, o = tl.program_id(0).to(tl.int64), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS,), tl.float32)
    for start in range(0, pixels, PIXELS):
        at = start + tl.arange(0, PIXELS)
        mask = (at < pixels)[:, None] & (o < outputs)[None, :]
        value = tl.load(up + (k * pixels + at)[:, None] * outputs + o[None, :], mask=mask, other=0.0)
        factor = tl.load(grad + k * pixels + at, mask=at < pixels, other=0.0)
        total += tl.sum(value.to(tl.float32) * factor.to(tl.float32)[:, None], axis=0)
    tl.store(out + k * outputs + o, total, mask=o < outputs)


def mask_predict_backward(
    grad: Tensor,
    x: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    weight: Tensor,
    labels: Tensor | None,
    forced: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, up_weight, up_bias, weight and bias."""
    x, up_weight, sizes = rows_of(x), rows_of(up_weight), sizes_of(x, up_weight, weight)
    rows, height, width, channels, outputs, classes = sizes
    grad = grad.contiguous() if labels is not None else rows_of(grad)
    up, up_grad = new_maps(x, outputs, 2 * height, 2 * width), new_maps(x, 4 * outputs, height, width)
    small = labels is None and precision(x.dtype) == "ieee"
    tile = chain_tile(x, 32, 64) if small else chain_tile(x, 64, 128 if x.element_size() == 4 else 256)
    block = max(16, min(32 if small else 64, next_power_of_two(classes)))
    programs = 4 * cdiv(rows, tile.rows), cdiv(outputs, tile.outputs)
    own = x if labels is None else labels.contiguous()
    given = x, up_weight, up_bias.contiguous(), weight.contiguous(), own
    options = {"ONE": labels is not None, "CLASSES": block, **tile.options(channels, x.dtype)}
    launch(predict_backward_kernel, programs, x.device, *given, grad, up, up_grad, *sizes, **options)
    library = by_library(x, forced)
    x_grad = pointwise_gradient(up_grad, up_weight.permute(0, 2, 3, 1).flatten(1).t(), library)
    turned = (
        weight_gradient(x, up_grad, 1, library=library)
        .to(weight.dtype)
        .view(channels, 2, 2, outputs)
        .permute(0, 3, 1, 2)
    )
    up_bias_grad = gate(up_grad)[1].view(4, outputs).sum(dim=0).to(weight.dtype)
    if labels is None:
        weight_grad, bias_grad = weight_gradient(grad, up, 1, library=library), gate(grad)[1]
    else:
        weight_grad, bias_grad = _class_gradients(up, grad, labels, classes)
    weight_grad = weight_grad.to(weight.dtype).view_as(weight)
    return x_grad, turned, up_bias_grad, weight_grad, bias_grad.to(weight.dtype)


def _class_gradients(up: Tensor, grad: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Gradients of the logits' weight [classes, outputs] and bias [classes] from grad [K, 2H, 2W] of one class each."""
    outputs, pixels = up.shape[1], grad.shape[1] * grad.shape[2]
    own = grad.new_empty(len(grad), outputs, dtype=torch.float32)
    block = max(16, min(256, next_power_of_two(outputs)))
    programs, sizes = (len(grad), cdiv(outputs, block)), (pixels, outputs)
    launch(class_sum_kernel, programs, grad.device, up, grad, own, *sizes, PIXELS=16, OUTPUTS=block)
    # Labels as columns, those out of range as none: the classes' sums are then a product, in a fixed order.
    known = (labels >= 0) & (labels < classes)
    chosen = F.one_hot(labels.long().clamp(0, classes - 1), classes) * known[:, None]
    both = torch.cat([own, grad.float().flatten(1).sum(dim=1, keepdim=True)], dim=1)
    sums = weight_gradient(chosen.float()[:, :, None, None], both[:, :, None, None], 1, exact=True)[:, 0]
    # Apart from each other: an operator's results may not share memory.
    return sums[:, :outputs].clone(memory_format=torch.contiguous_format), sums[:, outputs].clone()
