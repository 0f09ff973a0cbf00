"""3x3 convolutions on a CPU in a quarter of the multiplications (Winograd's F(4x4, 3x3)), for inference and training.

Weights are transformed in float32 whatever the maps' type. Rounding is some five times that of a plain float32
convolution: 3e-6 of the largest value; the weights' gradient, in the same way, has it too. What is no finite number
makes no numbers of all results of the 4x4 tiles that read it, whichever of their pixels it is near.
"""

import torch
from torch import Tensor

from htc_fast.device import instructions
from htc_fast.ops import _native
from htc_fast.ops._arguments import check_floats, check_tensor, flag
from htc_fast.ops._declare import declare, maps_like

TYPES = (torch.float32, torch.bfloat16)


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
def pack(weight: Tensor, turned: bool = False) -> Tensor:
    """weight [O, C, 3, 3], C a multiple of 16, O of 32 -> what `convolution` takes, laid out for this processor.

    turned   around, its channels and outputs exchanged: that is the convolution's gradient
    returns  [O, C, 36] float32; the shape says for which maps, not how it is laid out; turned: [C, O, 36]
    raises   ValueError, TypeError
    """
    check_tensor("weight", weight)
    check_floats("weight", weight)
    if turned and weight.dim() == 4:
        weight = weight.flip(2, 3).transpose(0, 1)
    shape = weight.shape
    if len(shape) != 4 or shape[2] != 3 or shape[3] != 3 or shape[0] % 32 or shape[1] % 16 or 0 in shape:
        raise ValueError(f"weight must be [O, C, 3, 3], O a multiple of 32 and C of 16, got {list(shape)}.")
    if weight.device.type not in ("cpu", "meta"):
        raise ValueError(f"weight must be on the CPU, got {weight.device}.")
    return torch.ops.htc_fast.winograd_weights(weight).view(*weight.shape[:2], 36)


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


@torch.no_grad()
def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """x [N, C, H, W], grad [N, O, H, W], C and O multiples of 32 -> [O, C, 3, 3] float32; RuntimeError for others."""
    return torch.ops.htc_fast.winograd_gradient(x, grad)


def _fake_weights(weight: Tensor) -> Tensor:
    return weight.new_empty(36 * weight.shape[0] * weight.shape[1], dtype=torch.float32)


def _fake_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    count, channels = grad.shape[1], x.shape[1]
    return x.new_empty(count, 3, 3, channels, dtype=torch.float32).permute(0, 3, 1, 2)


def _fake_maps(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int, relu: bool) -> Tensor:
    return maps_like(x, x.shape[0], outputs, *x.shape[2:])


declare("winograd_weights(Tensor weight) -> Tensor", _fake_weights)
declare("winograd(Tensor x, Tensor packed, Tensor? bias, int outputs, bool relu) -> Tensor", _fake_maps)
declare("winograd_gradient(Tensor x, Tensor grad) -> Tensor", _fake_weight_gradient)
