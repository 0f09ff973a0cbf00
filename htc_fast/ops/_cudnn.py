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


def takes(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, geometry: tuple) -> bool:
    """Whether cuDNN computes this layer with ReLU, and rightly: tried once per shape, which waits for the GPU.

    Numbers of maps between two powers of two count as one shape.
    """
    flags: Any = torch.backends.cudnn
    exact = flags.deterministic or torch.are_deterministic_algorithms_enabled()
    if not x.numel() or exact or not (flags.enabled and flags.is_available()):
        return False
    precision = flags.conv.fp32_precision if x.dtype == torch.float32 else ""
    key = (
        x.device,
        x.dtype,
        len(x).bit_length(),
        x.shape[1:],
        weight.shape,
        geometry,
        other is None,
        precision,
        flags.benchmark,
    )
    if key not in _seen:
        if torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode() == 2:
            return False  # trying means waiting: not now
        _seen[key] = _is_right(x, weight, bias, other, geometry)
    return _seen[key]


def _is_right(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, geometry: tuple) -> bool:
    """cuDNN's result for images of zeros is relu(bias + sum).

    Without a sum torch hands it the unfilled output as one, times zero: if that were read, garbage that happens to be
    NaN would stay. So NaN is what it gets here.
    """
    zeros = torch.zeros_like(x)
    shape = size(x, weight, geometry)
    summand = x.new_full((1,), 1.0 if other is not None else torch.nan).expand(shape)
    summand = summand.contiguous(memory_format=torch.channels_last)
    layer = bias, geometry[0:2], geometry[2:4], geometry[4:6], geometry[6]
    try:
        found = torch.cudnn_convolution_add_relu(zeros, weight, summand, float(other is not None), *layer)
        # The call itself too, with its own way to the library.
        run(zeros, weight, bias, other, geometry)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError):
        return False
    wanted = (bias + (other is not None)).relu()[:, None, None]
    apart = found.sub_(wanted).abs_().sub_(0.02 * wanted.abs())  # in place: what fits must fit here too
    return bool((apart.amax() <= 1e-3).item())


def size(x: Tensor, weight: Tensor, geometry: Sequence[int]) -> tuple[int, int, int, int]:
    """[N, O, h, w] of the result."""
    sides = [
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in zip(
            x.shape[2:], weight.shape[2:], geometry[0:2], geometry[2:4], geometry[4:6]
        )
    ]
    return x.shape[0], weight.shape[0], sides[0], sides[1]
