"""The pooling behind a ResNet's first convolution, without the indices that torch writes beside it; for inference."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_floats, check_tensor
from htc_fast.ops._declare import declare, maps_like
from htc_fast.ops.reference import max_pool as reference


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 3x3 pixels in steps of two, as torch's of padding 1; no gradient.

    x        [N, C, H, W], at least one pixel and one channel
    returns  [N, C, ceil(H / 2), ceil(W / 2)], channels-last in memory; NaN where a pixel is
    raises   ValueError, TypeError
    """
    check_tensor("x", x)
    check_floats("x", x)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [N, C, H, W] with pixels, got {list(x.shape)}.")
    return torch.ops.htc_fast.max_pool(x)


def _run(x):
    if _backend.in_triton(x) and x.dtype != torch.float64:
        return torch.ops.htc_fast_triton.max_pool(x)
    return reference.max_pool(x).contiguous(memory_format=torch.channels_last)


def _fake(x):
    return maps_like(x, *x.shape[:2], (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)


declare("max_pool(Tensor x) -> Tensor", _fake, native=False, triton="max_pool", python=_run)
