"""Deconvolution, ReLU and the logits of the given class alone, beside PyTorch's layers, which give all classes."""

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from benchmarks import matrix
from benchmarks.bench_conv3x3_relu import CHANNELS, COUNTS, DTYPES, USUAL
from benchmarks.cases import grid
from htc_fast import ops

QUICK = [(100, 256, "bfloat16"), (512, 256, "bfloat16")]
CLASSES = 80


def tensors(draw, count: int, channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, up_weight, up_bias, weight, bias."""
    channels, scale = draw.channels(channels), draw.channels(channels) ** -0.5
    x = draw.normal(draw.count(count), channels, 14, 14, dtype=dtype)
    up_weight = draw.normal(channels, channels, 2, 2, dtype=dtype, scale=scale)
    weight = draw.normal(CLASSES, channels, 1, 1, dtype=dtype, scale=scale)
    return [x, up_weight, draw.normal(channels, dtype=dtype), weight, draw.normal(CLASSES, dtype=dtype)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "channels", "dtype"), grid(USUAL, COUNTS, CHANNELS, DTYPES, quick=QUICK), indirect=["dtype"]
)
def bench_one_class(compare, draw, device, count, channels, dtype):
    x, up_weight, up_bias, weight, bias = tensors(draw, count, channels, dtype)
    rows = torch.arange(len(x), device=device)
    labels = rows % CLASSES

    def layers():
        return conv2d(conv_transpose2d(x, up_weight, up_bias, stride=2).relu_(), weight, bias)[rows, labels]

    ours = lambda: ops.mask_predict(x, up_weight, up_bias, weight, bias, labels)  # noqa: E731
    calls = matrix.everyone(draw, dtype, ours, layers)
    matrix.run(compare, f"one class, {matrix.words(count, channels)}", calls, "mask_predict", dtype, (x, up_weight))


@pytest.mark.parametrize(("count", "channels", "dtype"), grid(USUAL[:1], COUNTS, CHANNELS, DTYPES), indirect=["dtype"])
def bench_backward(compare, draw, count, channels, dtype):
    leaves = [one.requires_grad_() for one in tensors(draw, count, channels, dtype)]
    x, up_weight, up_bias, weight, bias = leaves
    layers = lambda: conv2d(conv_transpose2d(x, up_weight, up_bias, stride=2).relu(), weight, bias)  # noqa: E731
    ours, theirs = matrix.steps(leaves, lambda: ops.mask_predict(*leaves), layers)
    case = f"all classes, forward and backward, {matrix.words(count, channels)}"
    matrix.run(compare, case, {"htc_fast": ours, "PyTorch": theirs}, "mask_predict", dtype)
