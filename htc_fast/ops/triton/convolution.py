"""3x3 and 1x1 convolutions with bias and sum, and with a coarser map's nearest pixels, in one launch, in Triton."""

from torch import Tensor

from htc_fast.ops.triton.epilogue import NEAREST, RELU, SUM
from htc_fast.ops.triton.launch import check_floats
from htc_fast.ops.triton.matrix import product, rows_of


def convolution_sum(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    check_floats("x", x)
    weight, (outputs, channels), taps = rows_of(weight), weight.shape[:2], weight.shape[2] * weight.shape[3]
    steps = 1, taps * channels, channels
    return product(x, weight, outputs, steps, taps, RELU if relu else SUM, bias.contiguous(), other)


def lateral(x: Tensor, weight: Tensor, bias: Tensor, coarser: Tensor) -> Tensor:
    check_floats("x", x)
    weight, (outputs, channels) = weight.contiguous(), weight.shape[:2]
    return product(x, weight, outputs, (1, channels, 0), 1, NEAREST, bias.contiguous(), coarser)
