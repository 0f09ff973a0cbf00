"""cuDNN's convolution with bias, sum and ReLU in one launch, where it was seen to be right."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SQUARE = 1, 1, 1, 1, 1, 1, 1  # stride, padding, dilation and groups of a mask head's 3x3
# What it was seen to do right, by device and shapes.
_seen: dict[tuple, bool] = {}


def run(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, geometry: tuple) -> Tensor:
    """relu(convolution of x + bias + other).

    geometry  stride, padding and dilation, two numbers each, and groups
    """
    layer = bias, geometry[0:2], geometry[2:4], geometry[4:6], geometry[6]
    if other is None:
        return torch.cudnn_convolution_relu(x, weight, *layer)
    return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, *layer)


def takes(
    x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, geometry: tuple, keeps_nan: bool = False
) -> bool:
    """Whether cuDNN computes this layer with ReLU, and rightly: tried once per shape, which waits for the GPU.

    Numbers of maps between two powers of two count as one shape.

    keeps_nan  whether NaN has to stay visible behind the ReLU, as it does in torch's
    """
    if not x.numel() or not allowed():
        return False
    key = _key(x, weight, other, geometry, keeps_nan)
    taken = _seen.get(key)
    if taken is None:
        if torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode() == 2:
            return False  # trying means waiting: not now
        taken = _seen[key] = _is_right(x, weight, bias, other, geometry, keeps_nan)
    return taken


def allowed() -> bool:
    """Whether torch may use cuDNN, and results need not be the same bits every time.

    Its flags as torch reads them itself: by torch.backends they take microseconds.
    """
    exact = torch._C._get_cudnn_deterministic() or torch._C._get_deterministic_algorithms()
    return torch._C._has_cudnn and torch._C._get_cudnn_enabled() and not exact


def refuse(x: Tensor, weight: Tensor, other: Tensor | None, geometry: tuple, keeps_nan: bool = False) -> None:
    """`takes` says no from now on: cuDNN had no way to do it after all."""
    _seen[_key(x, weight, other, geometry, keeps_nan)] = False


def _key(x: Tensor, weight: Tensor, other: Tensor | None, geometry: tuple, keeps_nan: bool) -> tuple:
    flags: Any = torch.backends.cudnn
    precision = flags.conv.fp32_precision if x.dtype == torch.float32 else ""
    count, *shape = x.shape
    kind = x.device, x.dtype, other is None, precision, torch._C._get_cudnn_benchmark(), keeps_nan
    return *kind, count.bit_length(), *shape, weight.shape, geometry


def _is_right(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, geometry: tuple, keeps_nan: bool) -> bool:
    """cuDNN's result for images of zeros is relu(bias + sum).

    Without a sum torch hands it the unfilled output as one, times zero: if that were read, garbage that happens to be
    NaN would stay. So NaN is what it gets here, and a bias of ones, as a ReLU may turn NaN into zero.
    """
    zeros, ones = torch.zeros_like(x), torch.ones_like(bias)
    shape = size(x, weight, geometry)
    summand = x.new_full((1,), 1.0 if other is not None else torch.nan).expand(shape)
    summand = summand.contiguous(memory_format=torch.channels_last)
    layer = ones, geometry[0:2], geometry[2:4], geometry[4:6], geometry[6]
    try:
        found = torch.cudnn_convolution_add_relu(zeros, weight, summand, float(other is not None), *layer)
        if keeps_nan:
            zeros[0, :, 0, 0] = torch.nan
        # The call itself too, with its own way to the library.
        again = run(zeros, weight, ones, other, geometry)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError):
        return False
    # In place: what fits must fit here too.
    right = found.sub_(1.0 + (other is not None)).abs_().amax() <= 0.02
    return bool((right & again[0].isnan().any() if keeps_nan else right).item())


def size(x: Tensor, weight: Tensor, geometry: Sequence[int]) -> tuple[int, int, int, int]:
    """[N, O, h, w] of the result."""
    sides = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in zip(
            x.shape[2:], weight.shape[2:], geometry[0:2], geometry[2:4], geometry[4:6]
        )
    ]
    return x.shape[0], weight.shape[0], sides[0], sides[1]
