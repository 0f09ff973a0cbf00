"""Exponentials by operations that every processor rounds alike, in one order, so that all backends give the same bits.

The kernels' are `exponential` in csrc/geometry.h and the softmax of csrc/cuda/detections.cu. On CUDA tensors, where
each operation would be a launch, torch's own stand in, which differ by an ulp or two; and everywhere inside `as_torch`.
"""

import contextlib
import functools
import operator
from collections.abc import Iterator

import torch
from torch import Tensor

LANES = 32  # of a warp, whose sums are added two by two
_as_torch: list[None] = []  # an entry per block that is open, of any thread


@contextlib.contextmanager
def as_torch() -> Iterator[None]:
    """Torch's own stand in inside the block: for programs of other runtimes, which have operators for them."""
    _as_torch.append(None)
    try:
        yield
    finally:
        _as_torch.pop()


def exponential(x: Tensor) -> Tensor:
    """e^x of float32, within 1 ulp or two; 0 below -87.3, where floats end to be normal, infinity above 88.72."""
    if _as_torch or x.device.type == "cuda":
        return x.exp()
    inside = x.clamp(-87.3, 88.72)
    power = (inside * 1.44269504 + 0.5).floor()
    rest = inside - power * 0.693359375 + power * 2.12194440e-4
    total: Tensor | float = 1.9875691e-4
    for factor in (1.3981999e-3, 8.3334519e-3, 4.1665796e-2, 1.6666665e-1, 5.0000001e-1):
        total = total * rest + factor
    total = total * rest * rest + rest + 1.0
    # Two powers of two: 2^128 alone is no float. A NaN has no integer, and makes the product NaN all the same.
    whole = power.nan_to_num().to(torch.int32)
    low = whole.div(2, rounding_mode="trunc")
    for half in (low, whole - low):
        total = total * ((half + 127) << 23).view(torch.float32)
    return torch.where(x < -87.3, 0.0, torch.where(x > 88.72, torch.inf, total))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return x.sigmoid() if _as_torch else 1.0 / (1.0 + exponential(-x))


def softmax(x: Tensor) -> Tensor:
    """Along the last dimension, of columns that are dealt to lanes in turn."""
    if _as_torch or x.device.type == "cuda":
        return x.softmax(dim=-1)
    powers = exponential(x - x.amax(dim=-1, keepdim=True))
    padded = torch.nn.functional.pad(powers, (0, -powers.shape[-1] % LANES))
    total = added(padded.split(LANES, dim=-1))
    while total.shape[-1] > 1:
        total = added(total.tensor_split(2, dim=-1))
    return powers / total


def added(terms: tuple[Tensor, ...]) -> Tensor:
    """Their sum, from the first to the last."""
    return functools.reduce(operator.add, terms)
