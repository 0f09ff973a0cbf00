"""Depthwise convolutions on a CPU with the ReLU behind them, in training: one pass forwards, three backwards.

oneDNN's gradient of the weights is up to ten times slower than reading the maps takes, and torch pads maps by copying
them.
"""

import math

import torch
from torch import Tensor

from htc_fast.ops import _backend, _native
from htc_fast.ops._arguments import check_tensor
from htc_fast.ops._declare import declare, dense_like, maps_like, once

TYPES = (torch.float32, torch.bfloat16)
KERNELS = ([3, 3], [5, 5])


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether maps x are convolved with weight [C, 1, k, k] here: on a CPU, the library and the shapes allowing."""
    channels, each, *kernel = weight.shape
    fits = each == 1 and kernel in KERNELS and channels % 16 == 0 and channels > 0
    plain = torch._C._functorch.peek_interpreter_stack() is None and not _backend.in_forward_mode()
    return fits and x.device.type == "cpu" and x.dtype in TYPES and 0 not in x.shape and plain and _native.loaded()


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: tuple[int, int, int, int],
    high: float | None = None,
) -> Tensor:
    """Each channel convolved with its own kernel, then cut to 0 ... high.

    x        [N, C, H, W] float32 or bfloat16
    weight   [C, 1, k, k], k 3 or 5, C a multiple of 16;  bias [C]; in any type of numbers: sums are float32
    padding  pixels of zeros above, below, left and right of x
    high     6 for a ReLU6, infinity for a ReLU; None: no activation
    returns  [N, C, h, w] in x's type, channels-last in memory
    raises   ValueError, TypeError
    """
    for name, one in (("x", x), ("weight", weight), ("bias", bias)):
        check_tensor(name, one)
    if x.dim() != 4 or weight.dim() != 4 or x.shape[1] != weight.shape[0] or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"x must be [N, C, H, W], weight [C, 1, k, k] and bias [C], got {list(x.shape)}, {list(weight.shape)} and "
            f"{list(bias.shape)}."
        )
    channels, each, *kernel = weight.shape
    if each != 1 or kernel not in KERNELS or channels % 16 or x.device.type not in ("cpu", "meta"):
        shape = list(weight.shape)
        raise ValueError(f"weight must be [C, 1, k, k], k 3 or 5 and C a multiple of 16, on the CPU, got {shape}.")
    if x.dtype not in TYPES:
        raise TypeError(f"x must be one of {', '.join(map(str, TYPES))}, got {x.dtype}.")
    if stride < 1 or min(padding) < 0:
        raise ValueError(f"stride must be positive and padding not negative, got {stride} and {padding}.")
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - weight.shape[2]) // stride + 1
    width = (x.shape[3] + left + right - weight.shape[3]) // stride + 1
    if min(height, width, high or math.inf) <= 0:
        raise ValueError(f"x with its padding must hold the kernel, high be positive, got {list(x.shape)}.")
    return torch.ops.htc_fast.depthwise(x, weight, bias, stride, top, left, height, width, high or 0.0)


def _fake(x, weight, bias, stride, top, left, height, width, high):
    return maps_like(x, *x.shape[:2], height, width)


def _fake_backward(grad, out, x, weight, stride, top, left, high, x_needed):
    to_x = maps_like(x, x.shape[0] if x_needed else 0, *x.shape[1:])
    return to_x, dense_like(weight).to(torch.float32), weight.new_empty(weight.shape[0], dtype=torch.float32)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, *_, high = inputs
    ctx.geometry, ctx.high, ctx.bias_type = inputs[3:6], high, bias.dtype
    ctx.save_for_backward(output if high else x.new_empty(0, 1, 1, 1), x, weight)


def _backward(library, ctx, grad):
    once(grad)
    out, x, weight = ctx.saved_tensors
    needed = ctx.needs_input_grad[0]
    to_x, to_weight, to_bias = library.depthwise_backward(grad, out, x, weight, *ctx.geometry, ctx.high, needed)
    return to_x if needed else None, to_weight.to(weight.dtype), to_bias.to(ctx.bias_type), *[None] * 6


declare(
    "depthwise(Tensor x, Tensor weight, Tensor bias, int stride, int top, int left, SymInt height, SymInt width, "
    "float high) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
)
declare(
    "depthwise_backward(Tensor grad, Tensor out, Tensor x, Tensor weight, int stride, int top, int left, float high, "
    "bool x_needed) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
