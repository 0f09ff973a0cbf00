"""mmcv's deformable convolutions, by torchvision's, in float32 at least: 16 bits would move the points."""

import torch
import torchvision  # loads torch.ops.torchvision
from torch import Tensor

Pair = tuple[int, int]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill `output`.

    input   [N, C, H, W]
    weight  [O, C / group, kH, kW]
    offset  [N, 2 * deformable_group * kH * kW, h, w]  pixels down and across, tap by tap; NaN counts as 0
    output  [N, O, h, w]
    columns, ones, im2col_step  memory that mmcv works in; not used
    raises  RuntimeError where the shapes do not fit each other
    """
    output.copy_(_forward(input, weight, offset, None, None, (dH, dW), (padH, padW), (dilationH, dilationW)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add to `gradInput` [N, C, H, W] and `gradOffset` what `gradOutput` [N, O, h, w] says of map and offsets."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    maps, weights, points, _, _ = _backward(gradOutput, input, weight, offset, None, *geometry)
    gradInput += maps
    gradOffset += points
    # torchvision has all gradients at once, and mmcv asks for the weight's next.
    gradOutput.of_weight = input, offset, geometry, gradOutput._version, weights  # type: ignore[attr-defined]


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add to `gradWeight` [O, C / group, kH, kW], `scale` times, what `gradOutput` [N, O, h, w] says of it."""
    geometry = (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    known = vars(gradOutput).pop("of_weight", (None,) * 5)
    if known[0] is input and known[1] is offset and known[2:4] == (geometry, gradOutput._version):
        weights = known[4]
    else:  # it does not depend on the weight
        weights = _backward(gradOutput, input, gradWeight, offset, None, *geometry)[1]
    gradWeight += scale * weights


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill `output` [N, O, h, w]; as `deform_conv_forward`, and every sample weighs what `mask` says.

    mask  [N, deformable_group * kernel_h * kernel_w, h, w]
    bias  [O], where with_bias
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, *geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to the five gradients what `grad_output` [N, O, h, w] says."""
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    found = _backward(grad_output, input, weight, offset, mask, *geometry)
    for grad, one in zip((grad_input, grad_weight, grad_offset, grad_mask), found):
        grad += one
    if with_bias:
        grad_bias += grad_output.sum(dim=(0, 2, 3))


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if one is None else one.to(torch.promote_types(one.dtype, torch.float32)) for one in tensors]


def _forward(input, weight, offset, mask, bias, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    # On a CPU torchvision's operator reads anywhere in memory for an offset that is NaN.
    input, weight, offset, mask, bias = _wide(input, weight, offset.nan_to_num(0.0), mask, bias)
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def _backward(
    grad, input, weight, offset, mask, stride: Pair, padding: Pair, dilation: Pair, groups: int, offset_groups: int
) -> list[Tensor]:
    """Gradients of input, weight, offset, mask and bias."""
    grad, input, weight, offset, mask = _wide(grad, input, weight, offset.nan_to_num(0.0), mask)
    use_mask = mask is not None
    mask = mask if use_mask else input.new_zeros(len(input), 1)
    bias = input.new_zeros(len(weight))
    geometry = *stride, *padding, *dilation, groups, offset_groups, use_mask
    found = list(torch.ops.torchvision._deform_conv2d_backward(grad, input, weight, offset, mask, bias, *geometry))
    inside = _inside(offset, input.shape[2:], weight.shape[2:], stride, padding, dilation)
    found[2] = torch.where(inside, found[2].unflatten(1, (-1, 2)), 0.0).flatten(1, 2)
    return found


def _inside(offset: Tensor, size, kernel, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Which points have a gradient in mmcv: [N, points, 1, h, w].

    In torchvision those on the rim have one too, exactly a pixel outside, where offsets of zero put many.
    """
    found = []
    for axis, points in enumerate(offset.unflatten(1, (-1, *kernel, 2)).unbind(4)):
        taps = torch.arange(kernel[axis], device=offset.device) * dilation[axis] - padding[axis]
        places = torch.arange(offset.shape[2 + axis], device=offset.device) * stride[axis]
        at = taps.view(-1, 1, 1, 1) + places.view(-1, 1) if axis == 0 else taps.view(-1, 1, 1) + places
        found.append((points + at > -1) & (points + at < size[axis]))
    return (found[0] & found[1]).flatten(1, 3)[:, :, None]


OPERATORS = {
    one.__name__: one
    for one in (
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    )
}
