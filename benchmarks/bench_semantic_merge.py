"""The semantic branch's fusion of five levels beside PyTorch's layers, eager and compiled."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from benchmarks import matrix
from benchmarks.bench_conv3x3_relu import CHANNELS, DTYPES
from benchmarks.cases import grid, plural
from htc_fast import ops

USUAL = [(1, 256, "float32"), (1, 256, "bfloat16")]


def tensors(draw, images: int, channels: int, dtype: torch.dtype) -> tuple[list, list, list]:
    """Levels P2..P6, weights, biases."""
    levels = draw.maps(channels, images, dtype)
    levels.append(torch.nn.functional.max_pool2d(levels[-1], 1, 2).contiguous(memory_format=torch.channels_last))
    channels = levels[0].shape[1]
    weights = [draw.normal(channels, channels, 1, 1, dtype=dtype, scale=channels**-0.5) for _ in levels]
    return levels, weights, [draw.normal(channels, dtype=dtype, scale=0.1) for _ in levels]


def layers(levels: list, weights: list, biases: list) -> torch.Tensor:
    size = levels[1].shape[2:]
    sized = [interpolate(one, size=size, mode="bilinear", align_corners=True) for one in levels]
    return sum(conv2d(one, weight, bias).relu() for one, weight, bias in zip(sized, weights, biases))


def words(images: int, channels: int) -> str:
    text = "800×1344" + ("" if channels == 256 else f", {channels} channels")
    return text + ("" if images == 1 else f", {plural(images, 'image')}")


@torch.no_grad()
@pytest.mark.parametrize(
    ("images", "channels", "dtype"), grid(USUAL, (1, 8), CHANNELS, DTYPES, quick=USUAL[1:]), indirect=["dtype"]
)
def bench_forward(compare, draw, images, channels, dtype):
    given = tensors(draw, images, channels, dtype)
    calls = matrix.everyone(draw, dtype, lambda: ops.semantic_merge(*given), lambda: layers(*given))
    moved = *given[0], *given[1]
    matrix.run(compare, f"forward, {words(images, channels)}", calls, "semantic_merge", dtype, moved)


@pytest.mark.parametrize(("images", "channels", "dtype"), grid(USUAL[:1], (1, 8), CHANNELS, DTYPES), indirect=["dtype"])
def bench_backward(compare, draw, images, channels, dtype):
    given = tensors(draw, images, channels, dtype)
    leaves = [one.requires_grad_() for some in given for one in some]
    forwards = matrix.everyone(draw, dtype, lambda: ops.semantic_merge(*given), lambda: layers(*given))
    calls = dict(zip(forwards, matrix.steps(leaves, *forwards.values())))
    case = f"forward and backward, {words(images, channels)}"
    # A sum that rounding moves across zero changes a gradient by a whole weight.
    matrix.run(compare, case, calls, "semantic_merge", dtype, exact=2e-3)
