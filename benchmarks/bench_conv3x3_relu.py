"""A 3×3 convolution with bias and ReLU beside PyTorch's layers, eager and compiled."""

import pytest
import torch
from torch.nn.functional import conv2d

from benchmarks import matrix
from benchmarks.cases import grid
from htc_fast import ops

FORWARD = [(100, 256, "float32"), (100, 256, "bfloat16")]
COUNTS, CHANNELS, DTYPES = (10, 100, 512, 1000), (256, 64), ("float32", "bfloat16", "float16")


def layer(draw, channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    channels = draw.channels(channels)
    weight = draw.normal(channels, channels, 3, 3, dtype=dtype, scale=(9 * channels) ** -0.5)
    return weight, draw.normal(channels, dtype=dtype, scale=0.1)


@torch.no_grad()
@pytest.mark.parametrize(("count", "channels", "dtype"), grid(FORWARD, COUNTS, CHANNELS, DTYPES), indirect=["dtype"])
def bench_forward(compare, draw, device, count, channels, dtype):
    weight, bias = layer(draw, channels, dtype)
    x = draw.normal(draw.count(count), len(weight), 14, 14, dtype=dtype)
    calls = matrix.everyone(draw, device, dtype, lambda: ops.conv3x3_relu(x, weight, bias),
                            lambda: conv2d(x, weight, bias, padding=1).relu_())  # fmt: skip
    matrix.run(compare, f"forward, {matrix.words(count, channels)}", calls, "conv3x3_relu", dtype, (x, weight))


@pytest.mark.parametrize(("count", "channels", "dtype"), grid([(100, 256, "float32"), (100, 256, "bfloat16")],
                         COUNTS, CHANNELS, DTYPES), indirect=["dtype"])  # fmt: skip
def bench_backward(compare, draw, device, count, channels, dtype):
    leaves = [one.requires_grad_() for one in layer(draw, channels, dtype)]
    x = draw.normal(draw.count(count), len(leaves[0]), 14, 14, dtype=dtype).requires_grad_()
    ours, theirs = matrix.steps([x, *leaves], lambda: ops.conv3x3_relu(x, *leaves),
                                lambda: conv2d(x, *leaves, padding=1).relu())  # fmt: skip
    calls = {"htc_fast": ours, "PyTorch": theirs}
    matrix.run(compare, f"forward and backward, {matrix.words(count, channels)}", calls, "conv3x3_relu", dtype)
