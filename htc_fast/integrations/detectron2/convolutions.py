"""detectron2's 3x3 convolutions with Winograd's fewer multiplications, where no gradient is asked for on a CPU."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from detectron2 import layers
from torch import Tensor, nn

from htc_fast.ops import winograd

# Not on the modules, whose state stays theirs: each one's weight in Winograd's form, its bias, and what these are of.
_PACKED: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor | None, list]] = WeakKeyDictionary()


class Conv2d(layers.Conv2d):
    """The frozen normalization after it goes into its weights."""

    def forward(self, x):
        relu = isinstance(self.activation, nn.ReLU)
        if self.training or not (relu or self.activation is None) or not suits(self, x):
            return super().forward(x)
        values, bias = packed(self)
        return winograd.convolution(x, values, bias, relu)


def suits(conv: Any, x: Tensor) -> bool:
    """Whether Winograd's convolution can and should stand for conv, its norm included, over maps like x."""
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu") or x.device.type != "cpu" or not x.numel():
        return False
    frozen = conv.norm is None or type(conv.norm) is layers.FrozenBatchNorm2d
    return frozen and plain(conv, 3) and winograd.pays(conv.weight, x.dtype)


def packed(conv: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of what `suits`, kept until one of them, or the norm, has changed."""
    names = "weight", "bias", "running_mean", "running_var"
    norm = [] if conv.norm is None else [getattr(conv.norm, name) for name in names]
    tensors = [conv.weight, conv.bias, *norm]
    state = [one if one is None else (one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors]
    kept = _PACKED.get(conv)
    if kept is None or kept[2] != state:
        weight, bias = conv.weight, conv.bias
        if norm:
            gain = norm[0] * (norm[3] + conv.norm.eps).rsqrt()
            weight, shift = weight * gain[:, None, None, None], norm[1] - norm[2] * gain
            bias = shift if bias is None else shift + bias * gain
        kept = _PACKED[conv] = winograd.pack(weight), bias, state
    return kept[:2]


def forget(model: nn.Module) -> None:
    """Let go of what was kept for a model."""
    for one in model.modules():
        _PACKED.pop(one, None)


def plain(conv: Any, side: int) -> bool:
    """A convolution of stride 1 that keeps the size."""
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    usual = shape == ((side, side), (1, 1), (side // 2, side // 2), (1, 1), 1)
    return usual and conv.padding_mode == "zeros"
