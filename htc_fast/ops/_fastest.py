"""What is faster on this processor, measured: once a process, in about a tenth of a second.

What runs is what would: layers of a detector, small, with the weights laid out as an optimized one has them. What
counts is one thread's time on its core, the least of some rounds in which forms take turns: beside a busy process two
threads spend most of their time waiting for each other. Only a clear difference decides, so that nearly every process's
answer is the same.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast import cores
from htc_fast.device import supports
from htc_fast.ops import _onednn, packed_convolution

ROUNDS = 3
ROWS, CHANNELS, OUTPUTS = 64, 1024, 1024  # of a box head's first layer, which has 1000 rows and 12544 channels
# Of a ResNet's bottleneck: outputs, channels, kernel.
BOTTLENECK = (128, 512, 1), (128, 128, 3), (512, 128, 1)
SIDE = 20
CLEARLY = 1.25  # times as fast oneDNN's product has to be: on an Intel with AMX it is 0.9 to 1.1 times
SLOWER = 0.9  # of float32's rate; above it bf16 is taken, which needs half the memory

Call = Callable[[], Tensor]


class Fastest(NamedTuple):
    """onednn: float32 products through oneDNN, not torch's own, MKL's; dtype: float32, or bfloat16."""

    onednn: bool
    dtype: torch.dtype


_found: list[Fastest] = []
_lock = threading.Lock()


def fastest() -> Fastest:
    """For inference on this processor."""
    with _lock:  # two that measure at once would slow each other
        if not _found:
            _found.append(measure())
        return _found[0]


@torch.no_grad()
def measure() -> Fastest:
    """`fastest`, measured anew."""
    with torch.autocast("cpu", enabled=False), cores.one():
        own = _product(torch.float32, False)
        products = best([own, _product(torch.float32, True)] if _onednn.has_linear() else [own])
        onednn = len(products) > 1 and products[0] > CLEARLY * products[1]
        if not supports(torch.bfloat16, torch.device("cpu")):
            return Fastest(onednn, torch.float32)
        exact, rounded = best([_layers(torch.float32, onednn), _layers(torch.bfloat16, False)])
        return Fastest(onednn, torch.bfloat16 if exact > SLOWER * rounded else torch.float32)


def best(calls: list[Call]) -> list[float]:
    """The least seconds of each."""
    for call in calls:  # libraries make their kernels, and pages are touched
        call()
    rounds = [[_seconds(call) for call in calls] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds)]


def _seconds(call: Call) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _product(dtype: torch.dtype, onednn: bool) -> Call:
    x, weight, bias = (_ones(*shape, dtype=dtype) for shape in ((ROWS, CHANNELS), (OUTPUTS, CHANNELS), (OUTPUTS,)))
    if onednn:
        return lambda: _onednn.linear(x, weight, bias, relu=True)
    return lambda: F.linear(x, weight, bias).relu_()


def _convolution(dtype: torch.dtype, outputs: int, channels: int, kernel: int) -> Call:
    x, weight = (
        _ones(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((1, channels, SIDE, SIDE), (outputs, channels, kernel, kernel))
    )
    if packed_convolution.pays(weight, dtype):
        packed = packed_convolution.pack(weight, dtype)
        return lambda: packed_convolution.convolution(x, packed, None, relu=True)
    return lambda: F.conv2d(x, weight, padding=kernel // 2).relu_()


def _layers(dtype: torch.dtype, onednn: bool) -> Call:
    """A bottleneck and a product, one after the other."""
    calls = [*(_convolution(dtype, *layer) for layer in BOTTLENECK), _product(dtype, onednn)]
    return lambda: [call() for call in calls][-1]


def _ones(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(shape, dtype=dtype, device="cpu")
