"""The mask information flow x + relu(1×1(m)) beside PyTorch's layers, eager and compiled."""

import pytest
import torch
from torch.nn.functional import conv2d

from benchmarks import matrix
from benchmarks.bench_conv3x3_relu import CHANNELS, COUNTS, DTYPES, USUAL
from benchmarks.cases import grid
from htc_fast import ops


def tensors(draw, count: int, channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, m, weight, bias."""
    channels = draw.channels(channels)
    x = draw.normal(draw.count(count), channels, 14, 14, dtype=dtype)
    weight = draw.normal(channels, channels, 1, 1, dtype=dtype, scale=channels**-0.5)
    return [x, x.flip(0).contiguous(memory_format=torch.channels_last), weight, draw.normal(channels, dtype=dtype)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "channels", "dtype"), grid(USUAL, COUNTS, CHANNELS, DTYPES, quick=USUAL[1:]), indirect=["dtype"]
)
def bench_forward(compare, draw, count, channels, dtype):
    x, m, weight, bias = tensors(draw, count, channels, dtype)
    ours = lambda: ops.mask_flow(x, m, weight, bias)  # noqa: E731
    calls = matrix.everyone(draw, dtype, ours, lambda: x + conv2d(m, weight, bias).relu_())
    matrix.run(compare, f"forward, {matrix.words(count, channels)}", calls, "mask_flow", dtype, (x, m, weight))


@pytest.mark.parametrize(("count", "channels", "dtype"), grid(USUAL[:1], COUNTS, CHANNELS, DTYPES), indirect=["dtype"])
def bench_backward(compare, draw, count, channels, dtype):
    leaves = [one.requires_grad_() for one in tensors(draw, count, channels, dtype)]
    x, m, weight, bias = leaves
    forwards = lambda: ops.mask_flow(*leaves), lambda: x + conv2d(m, weight, bias).relu()
    # The gradient of m: that of x is all ones.
    ours, theirs = matrix.steps([m, x, weight, bias], *forwards)
    calls = {"htc_fast": ours, "PyTorch": theirs}
    matrix.run(compare, f"forward and backward, {matrix.words(count, channels)}", calls, "mask_flow", dtype)
