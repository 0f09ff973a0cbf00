"""Deformable convolution (Dai et al., ICCV 2017): each tap reads where another convolution points, between pixels.

torchvision's operator does it in training and on a GPU. Where it would be slow (without gradients on a CPU), wrong (its
kernels once ran on the default stream, whatever the current one) or absent (a program that runs with torch alone), the
same sum is written with torch's own sampling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from htc_fast.errors import UserError
from htc_fast.models.convolution import is_plain

# From 0.29 on torchvision's kernels run on the current stream (pytorch/vision, issue 9513).
ON_CURRENT_STREAM = tuple(int(part) for part in torchvision.__version__.split(".")[:2]) >= (0, 29)
SHORTCUTS = {"downsample", "shortcut"}  # of residual blocks, by module name


class DeformableConv2d(nn.Conv2d):
    """x [N, C, H, W] -> [N, O, h, w]: the geometry, groups and weight of `conv`, and offsets that start at zero.

    conv_offset  predicts offsets in pixels for the taps, row by row: y0, x0, y1, x1, ...
    source       DCN, section 2.1; offsets as mmcv's DeformConv2dPack with one group of them. Outside the map are zeros.
                 Sampling and products are in float32 at least, as 16 bits would move the points; the result has the
                 type that a plain convolution's would have
    """

    def __init__(self, conv: nn.Conv2d):
        geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(conv.in_channels, conv.out_channels, *geometry, conv.groups, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.conv_offset = nn.Conv2d(conv.in_channels, 2 * conv.weight[0, 0].numel(), *geometry, device="meta")
        for name, one in list(self.conv_offset.named_parameters()):
            setattr(self.conv_offset, name, nn.Parameter(conv.weight.new_zeros(one.shape)))

    def forward(self, x: Tensor) -> Tensor:
        offset = self.conv_offset(x)
        y = deformable_convolution(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return y.to(offset.dtype, memory_format=torch.channels_last)


def deformable_convolution(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """A convolution whose taps read where the offsets say, by whichever of the two ways is right and fast here.

    x        [N, C, H, W]
    offset   [N, D * 2 * kh * kw, h, w]  pixels down and across, for each tap in turn, of each of D groups of channels;
                                         NaN counts as 0
    weight   [O, C / groups, kh, kw]
    bias     [O] or None
    returns  [N, O, h, w], float32 at least
    source   as torchvision's deform_conv2d
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    run: Callable[..., Tensor] = sampled_convolution if _by_sampling(x, weight, offset) else deform_conv2d
    # On a CPU torchvision's operator reads anywhere in memory for an offset that is NaN.
    offset = offset.to(wide).nan_to_num(0.0)
    return run(x.to(wide), offset, weight.to(wide), None if bias is None else bias.to(wide), stride, padding, dilation)


def sampled_convolution(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """`deformable_convolution` as torch's own operators: bilinear samples, then one matrix product per group."""
    taps, (height, width), size = weight.shape[2:], x.shape[2:], offset.shape[2:]
    down, across = (
        torch.arange(count, device=x.device)[:, None] * dilated + torch.arange(side, device=x.device) * step - pad
        for count, dilated, side, step, pad in zip(taps, dilation, size, stride, padding)
    )
    parts = offset.shape[1] // (2 * taps[0] * taps[1])
    moved = offset.reshape(-1, *taps, 2, *size)  # [N * D, kh, kw, 2, h, w]
    # Beyond one pixel outside everything is zero, also what is infinitely far.
    y = (moved[:, :, :, 0] + down[:, None, :, None]).clamp(-2, height + 1)
    x_at = (moved[:, :, :, 1] + across[None, :, None, :]).clamp(-2, width + 1)
    points = torch.stack([(2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    maps = x.reshape(x.shape[0] * parts, -1, height, width)
    columns = F.grid_sample(maps, points.flatten(1, 3), align_corners=False)  # [N * D, C / D, kh * kw * h, w]
    groups = x.shape[1] // weight.shape[1]
    columns = columns.reshape(x.shape[0], groups, -1, size[0] * size[1])
    y = (weight.reshape(groups, len(weight) // groups, -1) @ columns).reshape(x.shape[0], len(weight), *size)
    return y if bias is None else y + bias[:, None, None]


def _by_sampling(*tensors: Tensor) -> bool:
    """Whether torchvision's operator is not the one to take."""
    if torch.compiler.is_exporting():
        return True
    device = tensors[0].device
    if device.type == "cuda":
        return not ON_CURRENT_STREAM and torch.cuda.current_stream(device) != torch.cuda.default_stream(device)
    # With gradients the operator needs a tenth of the memory: it samples again on the way back.
    return not (torch.is_grad_enabled() and any(one.requires_grad for one in tensors))


def exchange(
    net: Any,
    name: str,
    indices: Sequence[int],
    stages: Sequence[int],
    made: Callable[[nn.Conv2d], nn.Module],
    option: str,
    become: str,
) -> None:
    """Put other layers in the places of residual blocks' 3x3 convolutions.

    net             timm's, or like it: with feature_info and modules in the order in which they run
    name            of the backbone
    indices         of the features that end the stages 2 to 5
    stages          2 to 5
    made            a convolution -> what takes its place
    option, become  the configuration's field, and what it makes of them, for what is said
    raises          UserError if one of the stages has no such convolution
    """
    for stage in sorted(set(stages)):
        found = convolutions(net, indices, stage - 2)
        if not found:
            raise UserError(
                f"{option} makes 3x3 convolutions {become}, and stage {stage} of backbone {name!r} has none that mixes "
                f"channels: choose a ResNet or one like it, such as resnet50 or resnext101_64x4d, or leave {option} "
                "empty."
            )
        for path, conv in found:
            net.set_submodule(path, made(conv))


def convolutions(net: Any, indices: Sequence[int], number: int) -> list[tuple[str, nn.Conv2d]]:
    """Those behind the feature before the stage, up to the stage's own, with their paths."""
    modules = list(net.named_modules())
    end = _end(net, modules, indices[number])
    # Without a feature before it a stage is the module that bears its name.
    before = indices[number] - 1 if number == 0 else indices[number - 1]
    start = _end(net, modules, before) if before >= 0 else _start(net, modules, indices[number])
    return [(path, one) for path, one in modules[start:end] if _replaceable(path, one)]


def _replaceable(path: str, one: nn.Module) -> bool:
    if not is_plain(one) or one.kernel_size != (3, 3) or SHORTCUTS & set(path.split(".")):
        return False
    depthwise = one.groups == one.in_channels > 1
    return not depthwise and one.padding_mode == "zeros" and not isinstance(one.padding, str)


def _start(net: Any, modules: list[tuple[str, nn.Module]], index: int) -> int:
    return next((at for at, (path, _) in enumerate(modules) if _inside(net, path, index)), 0)


def _end(net: Any, modules: list[tuple[str, nn.Module]], index: int) -> int:
    return max((at + 1 for at, (path, _) in enumerate(modules) if _inside(net, path, index)), default=0)


def _inside(net: Any, path: str, index: int) -> bool:
    """Whether a path is of the module that makes feature `index`, whose dots timm may have replaced."""
    name = net.feature_info.module_name(index)
    return any(path == one or path.startswith(f"{one}.") for one in (name, name.replace(".", "_")))
