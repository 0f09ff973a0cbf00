"""3x3 convolutions on a CPU in a quarter of the multiplications (Winograd's F(4x4, 3x3)), for inference.

Weights are transformed once, in float32 whatever the maps' type, and owned by the module that owns the weight. Rounding
is some five times that of a plain float32 convolution: 3e-6 of the largest value.
"""

import torch
from torch import Tensor

from htc_fast.ops import _native
from htc_fast.ops._declare import declare, maps_like

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


def _state(weight: Tensor) -> tuple[int, int]:
    """Where it lies, and how often it was written to, which tensors made in inference mode do not count."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _fake_weights(weight):
    return weight.new_empty(36 * weight.shape[0] * weight.shape[1], dtype=torch.float32)


def _fake(x, packed, bias, outputs, relu):
    return maps_like(x, x.shape[0], outputs, *x.shape[2:])


declare("winograd_weights(Tensor weight) -> Tensor", _fake_weights)
declare("winograd(Tensor x, Tensor packed, Tensor? bias, int outputs, bool relu) -> Tensor", _fake)
