"""Convolutions without gradient: the norm behind one folded into it, 3x3 ones by Winograd, what follows in one pass.

What is made of a layer's weights is kept beside it, not in it, and made anew once they have changed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.ops import _onednn, winograd
from htc_fast.ops._convolutions import can_fuse
from htc_fast.ops.convolution import convolution


class Folded(NamedTuple):
    """What a convolution and the norm behind it come to.

    packed  the weight in Winograd's form, where that pays
    state   of the tensors that it was made of
    """

    weight: Tensor
    bias: Tensor
    packed: winograd.Packed | None
    state: tuple


_folded: WeakKeyDictionary[nn.Module, Folded] = WeakKeyDictionary()


def takes(x: Tensor, conv: Any, norm: Any = None) -> bool:
    """Whether `run` may stand for conv(x), and norm: no gradient, no autocast, no hooks, nothing unusual."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type) or not is_plain(conv):
        return False
    if norm is not None and not (
        type(norm) is nn.BatchNorm2d and not norm.training and norm.running_mean is not None and not _hooked(norm)
    ):
        return False
    return x.dim() == 4 and x.numel() > 0 and x.dtype == conv.weight.dtype


def run(x: Tensor, conv: Any, norm: Any = None, *, relu: bool, other: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + other), where `takes`; channels-last in memory."""
    layer = folded(conv, norm)
    x = x.contiguous(memory_format=torch.channels_last)
    if x.device.type != "cpu":
        geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
        return convolution(x, layer.weight, layer.bias, other, relu=relu, **geometry)
    given = layer.weight, layer.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    if layer.packed is not None and _onednn.unwatched(x) and layer.packed.fits(layer.weight, x):
        out = winograd.convolution(x, layer.packed.values, layer.bias, relu=relu and other is None)
    elif not can_fuse(x):
        out = F.conv2d(x, layer.weight, layer.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        out = out.relu_() if relu and other is None else out
    elif other is None:
        return _onednn.convolution(x, given, "relu" if relu else "none")
    else:
        other = other.contiguous(memory_format=torch.channels_last)
        return _onednn.convolution_sum(x, other, given, relu, overwrites=False)
    if other is not None:
        out = out.add_(other)
        out = out.relu_() if relu else out
    return out


@torch.no_grad()
def folded(conv: Any, norm: Any = None) -> Folded:
    """What stands beside conv; made where it is missing or no longer fits."""
    state = tuple(_states(conv, norm))
    found = _folded.get(conv)
    if found is not None and found.state == state:
        return found
    weight, bias = conv.weight.detach() if norm is not None else conv.weight, conv.bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if norm is not None:
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
        bias = (bias - norm.running_mean) * scale + (0 if norm.bias is None else norm.bias)
        weight, bias = (weight * scale[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)
    direct = conv.stride == (1, 1) and conv.padding == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    pays = direct and winograd.pays(weight, weight.dtype)
    made = Folded(weight, bias, winograd.Packed(weight) if pays else None, state)
    _folded[conv] = made
    return made


def _states(conv: Any, norm: Any) -> Iterator[tuple]:
    """Where every tensor lies, and how often it was written to."""
    for one in (conv, norm):
        if one is not None:
            for tensor in (*one.parameters(recurse=False), *one.buffers(recurse=False)):
                yield tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.dtype


def is_plain(conv: Any) -> bool:
    """Whether a convolution is torch's own, without hooks."""
    # mmcv's Conv2d is torch's but for maps without pixels in torch before 1.5.
    kind = type(conv)
    plain = kind is nn.Conv2d or (kind.__module__ == "mmcv.cnn.bricks.wrappers" and kind.__name__ == "Conv2d")
    return plain and conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and not _hooked(conv)


def hooked(*modules: nn.Module) -> bool:
    """Whether anything listens to these modules or to one inside them, or stands in for their forward."""
    return any(_hooked(inner) for one in modules for inner in one.modules())


def _hooked(module: nn.Module) -> bool:
    # "forward" in a module's own attributes: somebody's patch. Hooks of weights that are made at each call are hooks.
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
