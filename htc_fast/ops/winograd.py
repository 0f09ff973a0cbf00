"""3x3 convolutions on a CPU in a quarter of the multiplications (Winograd's F(4x4, 3x3)), for inference and training.

For inference weights are transformed once, in float32 whatever the maps' type, and owned by the module that owns the
weight. Training transforms them at every call. Rounding is some five times that of a plain float32 convolution: 3e-6
of the largest value; the weights' gradient, in the same way, has it too.
"""

from typing import Any

import torch
from torch import Tensor

from htc_fast.device import instructions
from htc_fast.ops import _backend, _native
from htc_fast.ops._arguments import check_floats, check_tensor, flag
from htc_fast.ops._declare import declare, maps_like, watched

TYPES = (torch.float32, torch.bfloat16)
VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
FEWEST = 1600  # pixels below which transforming the weights for one call costs what it saves


def pays(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a convolution with weight [O, C, 3, 3] over maps of this type is faster so, here.

    source  two Zen 4 cores, 256 channels: 3.0 times oneDNN's direct convolution in float32, 1.5 times in bfloat16
    """
    outputs, channels, *kernel = weight.shape
    fits = kernel == [3, 3] and outputs % 32 == 0 and channels % 16 == 0 and weight.device.type == "cpu"
    # A matrix unit multiplies bf16 faster than this saves multiplications.
    slower = dtype == torch.bfloat16 and "amx_bf16" in instructions()
    return fits and "avx2" in instructions() and not slower and dtype in TYPES and _native.loaded()


@torch.no_grad()
def pack(weight: Tensor) -> Tensor:
    """weight [O, C, 3, 3], C a multiple of 16, O of 32 -> what `convolution` takes, laid out for this processor.

    returns  [O, C, 36] float32; the shape says for which maps, not how it is laid out
    raises   ValueError, TypeError
    """
    check_tensor("weight", weight)
    check_floats("weight", weight)
    shape = weight.shape
    if len(shape) != 4 or shape[2] != 3 or shape[3] != 3 or shape[0] % 32 or shape[1] % 16 or 0 in shape:
        raise ValueError(f"weight must be [O, C, 3, 3], O a multiple of 32 and C of 16, got {list(shape)}.")
    if weight.device.type not in ("cpu", "meta"):
        raise ValueError(f"weight must be on the CPU, got {weight.device}.")
    return torch.ops.htc_fast.winograd_weights(weight).view(shape[0], shape[1], 36)


def convolution(x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """3x3 with one pixel of padding.

    x        [N, C, H, W] float32 or bfloat16;  packed: of `pack`;  bias [O] or None
    returns  [N, O, H, W], channels-last in memory; no gradient
    raises   ValueError, TypeError
    """
    check_tensor("x", x)
    check_tensor("packed", packed)
    if x.dtype not in TYPES or packed.dtype != torch.float32:
        raise TypeError(f"x must be float32 or bfloat16 and packed float32, got {x.dtype} and {packed.dtype}.")
    if x.dim() != 4 or not x.shape[1]:
        raise ValueError(f"x must be [N, C, H, W] with channels, got {list(x.shape)}.")
    outputs = len(packed) if packed.dim() else 0
    if packed.shape != (outputs, x.shape[1], 36) or not outputs or outputs % 32 or x.device != packed.device:
        raise ValueError(f"packed must be of a weight of {x.shape[1]} channels and on {x.device}, like x.")
    if bias is not None:
        check_tensor("bias", bias)
        check_floats("bias", bias)
        if bias.dim() != 1 or len(bias) != outputs:
            raise ValueError(f"bias must be [{outputs}], got {list(bias.shape)}.")
    return torch.ops.htc_fast.winograd(x, packed, bias, outputs, flag("relu", relu))


class Packed:
    """A weight in Winograd's form: of use for this very weight, for as long as it stays as it is.

    values  of `pack`; None: made here. To be given where the weight has lost bits since it was packed
    """

    def __init__(self, weight: Tensor, values: Tensor | None = None):
        self.weight, self.values = weight, pack(weight) if values is None else values
        self._state = _state(weight)

    def fits(self, weight: Tensor, x: Tensor) -> bool:
        """Whether a convolution of maps like x with `weight` may use it."""
        return weight is self.weight and _state(weight) == self._state and x.dtype in TYPES


def learns(x: Tensor, weight: Tensor) -> bool:
    """Whether `learned` takes maps x [N, C, H, W] and weight [O, C, 3, 3], and is faster, with nothing looking on."""
    if not torch.is_grad_enabled() or x.device.type != "cpu" or watched((x, weight)) or _backend.in_forward_mode():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    same = weight.dtype == torch.float32 or weight.dtype == dtype
    large = x.dim() == 4 and x.shape[0] * x.shape[2] * x.shape[3] >= FEWEST
    return large and same and weight.dim() == 4 and weight.shape[1] % 32 == 0 and pays(weight, dtype)


def learned(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """3x3 with one pixel of padding, with gradients, where `learns` says so; arguments and result of `convolution`."""
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    return _Learned.apply(x, weight, bias, relu)


class _Learned(torch.autograd.Function):
    """Its second derivative is that of torch's own convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(VIEWS):  # else the result, a view, could not be written to
            out = torch.ops.htc_fast.winograd(x, pack(weight), bias, len(weight), relu)
        ctx.save_for_backward(x, weight, out if relu else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            needed = [for_x, for_weight, False]
            geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
            grads = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), None, *geometry, needed)
            x_grad, weight_grad, _ = grads
        else:
            x_grad = _input_gradient(grad, weight) if for_x else None
            weight_grad = torch.ops.htc_fast.winograd_gradient(x, grad) if for_weight else None
        bias_grad = grad.sum((0, 2, 3), dtype=torch.float32) if for_bias else None
        return x_grad, weight_grad, bias_grad, None


def _input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad [N, O, H, W] -> [N, C, H, W]: the convolution with the weight turned around and its channels exchanged."""
    turned = pack(weight.flip(2, 3).transpose(0, 1))
    return torch.ops.htc_fast.winograd(grad, turned, None, weight.shape[1], False)


def _state(weight: Tensor) -> tuple[int, int]:
    """Where it lies, and how often it was written to, which tensors made in inference mode do not count."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _fake_weights(weight):
    return weight.new_empty(36 * weight.shape[0] * weight.shape[1], dtype=torch.float32)


def _fake_gradient(x, grad):
    count, channels = grad.shape[1], x.shape[1]
    return x.new_empty(count, 3, 3, channels, dtype=torch.float32).permute(0, 3, 1, 2)


def _fake(x, packed, bias, outputs, relu):
    return maps_like(x, x.shape[0], outputs, *x.shape[2:])


declare("winograd_weights(Tensor weight) -> Tensor", _fake_weights)
declare("winograd(Tensor x, Tensor packed, Tensor? bias, int outputs, bool relu) -> Tensor", _fake)
declare("winograd_gradient(Tensor x, Tensor grad) -> Tensor", _fake_gradient)
