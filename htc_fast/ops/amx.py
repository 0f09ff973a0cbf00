"""1x1 and 3x3 convolutions in bfloat16 on a matrix unit (AMX), for inference and training, and mask heads' ends for
inference; sums are float32."""

import functools

import torch
from torch import Tensor

from htc_fast.device import instructions
from htc_fast.ops import _native
from htc_fast.ops._declare import declare, maps_like

TYPES = (torch.bfloat16,)


def pays(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a convolution with weight [O, C, k, k], k 1 or 3, over maps of this type is faster so, here.

    source  two cores of an Intel server of 2023 or later with AMX, 256 channels: 1.3 to 2.5 times oneDNN's rate
    """
    return (_fits(weight, 1) or _fits(weight, 3)) and dtype in TYPES and _ready()


def predicts(up_weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether `mask_predict` takes a deconvolution with up_weight [C, O, 2, 2] over maps of this type, here."""
    return _fits(up_weight, 2) and dtype in TYPES and _ready()


def _fits(weight: Tensor, side: int) -> bool:
    outputs, channels, *kernel = weight.shape
    there = outputs > 0 and channels > 0 and weight.device.type == "cpu"
    return there and kernel == [side, side] and outputs % 32 == 0 and channels % 32 == 0


@functools.cache
def _ready() -> bool:
    """Whether the matrix unit is there and may be used, which the system decides."""
    if not (_native.loaded() and {"amx_tile", "amx_bf16"} <= instructions()):
        return False
    tried = torch.zeros(32, 32, 3, 3, dtype=torch.float32, device="cpu")
    try:
        return torch.ops.htc_fast.amx_weights(tried, False) is not None
    except RuntimeError:
        return False


@torch.no_grad()
def pack(weight: Tensor, turned: bool = False) -> Tensor:
    """What `convolution` takes, in the order that it is read in.

    weight   [O, C, k, k] floats, k 1 or 3, O and C multiples of 32
    turned   around, its channels and outputs exchanged: that is the convolution's gradient
    returns  [O, C, k * k] bfloat16; turned: [C, O, k * k]
    raises   RuntimeError if it does not fit, or the processor has no AMX
    """
    if weight.dtype not in (torch.float32, torch.bfloat16):
        weight = weight.float()
    outputs, channels = weight.shape[:2][:: -1 if turned else 1]
    return torch.ops.htc_fast.amx_weights(weight, turned).view(outputs, channels, -1)


def convolution(x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool, other: Tensor | None = None) -> Tensor:
    """1x1, or 3x3 with one pixel of padding.

    x        [N, C, H, W] bfloat16;  packed: of `pack`;  bias [O] or None
    other    [N, O, H, W] bfloat16, added before the ReLU, behind a 1x1 one alone; or None
    returns  [N, O, H, W], channels-last in memory; no gradient
    raises   RuntimeError if they do not fit, or the processor has no AMX
    """
    if packed.dim() != 3 or x.dim() != 4 or packed.shape[1] != x.shape[1]:
        raise RuntimeError(
            f"amx_convolution: x must be [N, C, H, W] with the C of packed [O, C, taps], got {list(x.shape)} "
            f"and {list(packed.shape)}."
        )
    return torch.ops.htc_fast.amx_convolution(x, packed, bias, other, len(packed), relu)


@torch.no_grad()
def gradients(x: Tensor, grad: Tensor, kernel: int, bias: bool = False) -> tuple[Tensor, Tensor]:
    """The gradients of such a convolution's weight and bias.

    x        [N, C, H, W] bfloat16;  grad [N, O, H, W], of the result; C and O multiples of 32, at least one pixel
    returns  [O, C, kernel, kernel] and [O], of no elements without `bias`; float32, the same bits for any number of
             threads; what is no finite number may show in any tap of its channels
    raises   RuntimeError if they do not fit, are empty, or the processor has no AMX
    """
    return torch.ops.htc_fast.amx_gradient(x, grad, kernel, bias)


@torch.no_grad()
def mask_predict(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """As `ops.mask_predict`, for the class given of each map; what is up-sampled stays in the processor.

    x        [K, C, H, W] bfloat16, K > 0;  labels [K] integers
    returns  [K, 2H, 2W], zeros where labels are no class; no gradient
    raises   RuntimeError if they do not fit, or the processor has no AMX
    """
    classes = labels.long().clamp(0, len(weight) - 1)
    own = weight.flatten(1)[classes].float()
    # By tap; of 32 outputs, 32 channels: halves of the outputs, pairs of channels, outputs, channels of the pair.
    parts = up_weight.bfloat16().reshape(-1, 16, 2, up_weight.shape[1] // 32, 2, 16, 4)
    packed = parts.permute(6, 3, 0, 4, 1, 5, 2).contiguous()
    logits = torch.ops.htc_fast.amx_mask_predict(x, packed, up_bias, own, bias[classes])
    return torch.where((labels == classes)[:, None, None], logits, 0)


def _fake_weights(weight, turned):
    return weight.new_empty(weight.numel(), dtype=torch.bfloat16)


def _fake_maps(x, packed, bias, other, outputs, relu):
    return maps_like(x, x.shape[0], outputs, *x.shape[2:])


def _fake_gradient(x, grad, kernel, bias):
    weight = x.new_empty(grad.shape[1], kernel, kernel, x.shape[1], dtype=torch.float32).permute(0, 3, 1, 2)
    return weight, x.new_empty(grad.shape[1] if bias else 0, dtype=torch.float32)


declare("amx_weights(Tensor weight, bool turned) -> Tensor", _fake_weights)
declare(
    "amx_convolution(Tensor x, Tensor packed, Tensor? bias, Tensor? other, int outputs, bool relu) -> Tensor",
    _fake_maps,
)
declare("amx_gradient(Tensor x, Tensor grad, int kernel, bool bias) -> (Tensor, Tensor)", _fake_gradient)
declare(
    "amx_mask_predict(Tensor x, Tensor packed, Tensor up_bias, Tensor own, Tensor added) -> Tensor",
    lambda x, packed, up_bias, own, added: x.new_empty(x.shape[0], 2 * x.shape[2], 2 * x.shape[3]),
)
