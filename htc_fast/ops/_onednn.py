"""oneDNN's convolutions and products with what follows them in the same pass: the one place that calls torch's own
operators for it.

They are private to torch, and know neither gradients nor tracing.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend

_there = torch.backends.mkldnn.is_available()
_convolution: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _there else None
_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _there else None
# Weight, bias, padding, stride, dilation, groups.
Layer = tuple[Tensor, Tensor | None, Sequence[int], Sequence[int], Sequence[int], int]


def unwatched(x: Tensor) -> bool:
    """Whether oneDNN's own convolution, or another without gradient, may be called for x."""
    differentiated = torch.is_grad_enabled() or _backend.in_forward_mode()
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
    return _convolution is not None and x.device.type == "cpu" and x.numel() > 0 and not (differentiated or traced)


@functools.cache
def computes(dtype: torch.dtype) -> bool:
    """Whether this processor's oneDNN has convolutions of that type."""
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    return dtype == torch.float32 or (asked is not None and getattr(torch.ops.mkldnn, asked)())


def has_linear() -> bool:
    """Whether torch offers `linear`."""
    return _linear is not None


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """x [K, C], weight [O, C], bias [O] -> x weight^T + bias [K, O], with ReLU if asked for."""
    return _linear(x, weight, bias, "relu" if relu else "none", [], "")


def convolution(x: Tensor, layer: Layer, activation: str = "none", constants: Sequence[float] = ()) -> Tensor:
    """activation(convolution of x).

    activation  oneDNN's name of it, or "none";  constants: what it takes
    """
    return _convolution(x, *layer, activation, list(constants), "")


def convolution_sum(x: Tensor, other: Tensor, layer: Layer, relu: bool, overwrites: bool) -> Tensor:
    """convolution of x + other [N, O, h, w], with ReLU if asked for; overwrites: in other's place in memory."""
    after: tuple = "add", 1.0, "relu" if relu else None, [], ""
    if overwrites:
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *layer, *after)
    return _convolution.binary(x, other, *layer, *after)
