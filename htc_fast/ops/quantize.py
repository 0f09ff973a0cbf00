"""Features in 8 bits, as oneDNN's quantised layers read them."""

import torch
from torch import Tensor

from htc_fast.ops._arguments import check_tensor
from htc_fast.ops._declare import declare, maps_like

TYPES = (torch.float32, torch.float16, torch.bfloat16)
LAST = 255


def quantize(x: Tensor, step: float, zero: int) -> Tensor:
    """x / step + zero, rounded to the nearest and clamped to 0..255, on a CPU.

    x        [N, C, H, W] or [K, C], floats
    step     > 0
    zero     0 to 255: what stands for 0
    returns  uint8 of x's shape; maps are channels-last in memory; NaN becomes 0
    raises   ValueError, TypeError
    """
    check_tensor("x", x)
    if x.dtype not in TYPES:
        raise TypeError(f"x must be one of {', '.join(map(str, TYPES))}, got {x.dtype}.")
    if x.device.type not in ("cpu", "meta") or x.dim() not in (2, 4):
        raise ValueError(f"x must be [N, C, H, W] or [K, C] on the CPU, got {list(x.shape)} on {x.device}.")
    if not step > 0 or zero not in range(LAST + 1):
        raise ValueError(f"step must be above 0 and zero 0 to {LAST}, got {step} and {zero}.")
    return torch.ops.htc_fast.quantize(x, step, zero)


def _fake(x, step, zero):
    if x.dim() != 4:
        return x.new_empty(x.shape, dtype=torch.uint8)
    return maps_like(x, *x.shape).to(torch.uint8)


declare("quantize(Tensor x, float step, int zero) -> Tensor", _fake)
