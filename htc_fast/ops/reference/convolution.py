"""A convolution with what follows it, and a pyramid's lateral, in plain PyTorch."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    relu: bool,
) -> Tensor:
    out = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    out = out if other is None else out + other
    return out.relu() if relu else out


def lateral(x: Tensor, weight: Tensor, bias: Tensor, coarser: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias) + F.interpolate(coarser, size=x.shape[-2:], mode="nearest")
