"""A 3×3 convolution with bias and ReLU beside PyTorch's layers, eager and compiled; four in a row beside cuDNN's."""

import pytest
import torch
from torch.nn.functional import conv2d

from benchmarks import matrix, rivals
from benchmarks.cases import grid, select
from htc_fast import ops

USUAL = [(100, 256, "float32"), (100, 256, "bfloat16")]
COUNTS, CHANNELS, DTYPES = (10, 100, 512, 1000), (256, 64), ("float32", "bfloat16", "float16")


def layer(draw, channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    channels = draw.channels(channels)
    weight = draw.normal(channels, channels, 3, 3, dtype=dtype, scale=(9 * channels) ** -0.5)
    return weight, draw.normal(channels, dtype=dtype, scale=0.1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "channels", "dtype"), grid(USUAL, COUNTS, CHANNELS, DTYPES, quick=USUAL[1:]), indirect=["dtype"]
)
def bench_forward(compare, draw, count, channels, dtype):
    weight, bias = layer(draw, channels, dtype)
    x = draw.normal(draw.count(count), len(weight), 14, 14, dtype=dtype)
    ours = lambda: ops.conv3x3_relu(x, weight, bias)  # noqa: E731
    calls = matrix.everyone(draw, dtype, ours, lambda: conv2d(x, weight, bias, padding=1).relu_())
    matrix.run(compare, f"forward, {matrix.words(count, channels)}", calls, "conv3x3_relu", dtype, (x, weight))


@pytest.mark.parametrize(("count", "channels", "dtype"), grid(USUAL, COUNTS, CHANNELS, DTYPES), indirect=["dtype"])
def bench_backward(compare, draw, count, channels, dtype):
    leaves = [one.requires_grad_() for one in layer(draw, channels, dtype)]
    x = draw.normal(draw.count(count), len(leaves[0]), 14, 14, dtype=dtype).requires_grad_()
    forwards = lambda: ops.conv3x3_relu(x, *leaves), lambda: conv2d(x, *leaves, padding=1).relu()
    ours, theirs = matrix.steps([x, *leaves], *forwards)
    calls = {"htc_fast": ours, "PyTorch": theirs}
    matrix.run(compare, f"forward and backward, {matrix.words(count, channels)}", calls, "conv3x3_relu", dtype)


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "dtype"), select([], [(count, "bfloat16") for count in (1, 10, 100, 512)]), indirect=["dtype"]
)
def bench_four(compare, draw, device, count, dtype):
    """A mask head's convolutions, with the bias and ReLU fused by whoever can, and with our tiles of one kind alone."""
    layers = [layer(draw, 256, dtype) for _ in range(4)]
    x = draw.normal(draw.count(count), len(layers[0][0]), 14, 14, dtype=dtype)

    def through(convolution):
        def run(x=x):
            for weight, bias in layers:
                x = convolution(x, weight, bias)
            return x

        return run

    ours, gpu = through(ops.conv3x3_relu), device.type == "cuda"
    fused = through(lambda x, weight, bias: torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), 1))
    calls = {
        "htc_fast": ours,
        "PyTorch": through(lambda x, weight, bias: conv2d(x, weight, bias, padding=1).relu_()),
        "cuDNN, bias and ReLU fused": fused if gpu else rivals.Absent("a GPU's alone"),
        "htc_fast, tiles copied by TMA": tiled(ours, True) if gpu else rivals.Absent("a GPU's alone"),
        "htc_fast, tiles gathered": tiled(ours, False) if gpu else rivals.Absent("a GPU's alone"),
    }
    moved = x, *(weight for weight, _ in layers)
    matrix.run(compare, f"four in a row, {matrix.words(count, 256)}", calls, "conv3x3_relu", dtype, moved)


def tiled(call, copied: bool):
    """The call with the best tile by count of one kind alone: which of the two kernels is the faster one."""
    from htc_fast.ops.triton import matrix, tiles

    def choose(x, taps, outputs, run, bulk, extra):
        found = tiles.candidates(x, outputs, tiles.device_of(x), bulk, extra)
        kind = [tile for tile in found if (tile.box is not None) == copied] or found
        return tiles.by_waves((x.shape[0], *x.shape[2:]), outputs, kind, tiles.device_of(x))

    def run():
        usual, matrix.tile_for = matrix.tile_for, choose
        try:
            with ops.use_backend("triton"):
                return call()
        finally:
            matrix.tile_for = usual

    return run
