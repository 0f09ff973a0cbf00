"""3x3 convolutions on a CPU in a quarter of the multiplications (Winograd's F(4x4, 3x3)), for inference.

Weights are transformed once, in float32 whatever the maps' type, and kept beside the weight itself; `convolution_relu`
and the optimized backbone take them from there. Rounding is some five times that of a plain float32 convolution: 3e-6
of the largest value.
"""

import torch
from torch import Tensor

from htc_fast.ops import _native

TYPES = (torch.float32, torch.bfloat16)


def pays(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a convolution with weight [O, C, 3, 3] over maps of this type is faster so, here.

    source  two Zen 4 cores, 256 channels: 3.0 times oneDNN's direct convolution in float32, 1.5 times in bfloat16
    """
    outputs, channels, *kernel = weight.shape
    fits = kernel == [3, 3] and outputs % 32 == 0 and channels % 16 == 0 and weight.device.type == "cpu"
    # A matrix unit multiplies bf16 faster than this saves multiplications.
    slower = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return fits and wide and not slower and dtype in TYPES and _native.loaded()


@torch.no_grad()
def pack(weight: Tensor) -> Tensor:
    """weight [O, C, 3, 3], C a multiple of 16, O of 32 -> what `convolution` takes, laid out for this processor."""
    return torch.ops.htc_fast.winograd_weights(weight)


def convolution(x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """3x3 with one pixel of padding.

    x        [N, C, H, W] float32 or bfloat16;  packed: of `pack`;  bias [O] or None
    returns  [N, O, H, W], channels-last in memory; no gradient
    raises   RuntimeError if they do not fit
    """
    return torch.ops.htc_fast.winograd(x, packed, bias, packed.numel() // (36 * x.shape[1]), relu)


def keep(weight: Tensor, packed: Tensor) -> None:
    """Let convolutions with this very weight use `packed`, for as long as the weight stays as it is."""
    weight.winograd = packed


def kept(weight: Tensor, x: Tensor) -> Tensor | None:
    """What `keep` was given for the weight, where maps like x can use it."""
    return getattr(weight, "winograd", None) if x.dtype in TYPES else None


@_native.register_fake("winograd_weights")
def _(weight):
    return weight.new_empty(36 * weight.shape[0] * weight.shape[1], dtype=torch.float32)


@_native.register_fake("winograd")
def _(x, packed, bias, outputs, relu):
    return x.new_empty(x.shape[0], *x.shape[2:], outputs).permute(0, 3, 1, 2)
