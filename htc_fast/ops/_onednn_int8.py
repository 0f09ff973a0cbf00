"""oneDNN's convolutions and products in 8 bits: the one place that calls torch's own operators for them.

Features are unsigned with a zero point, one scale a tensor; weights are signed, one scale an output. oneDNN hears
nothing of the zero point of what a layer reads: its part of the result is the same for all pixels and thus the bias's,
and told of it oneDNN would turn the weight at each call. As `_onednn`'s, these operators are private to torch, and know
neither gradients nor tracing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAMES = ("qconv_prepack", "qconv_pointwise", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")
MOST = 127  # of a weight: symmetric, so that its zero is zero
Scale = tuple[float, int]  # of a step, and what stands for zero
UNSAVED = "layers in 8 bits cannot be saved: save the detector, and optimize it after loading."


def offered() -> bool:
    """Whether this torch has the operators; whether the processor gains from them is another question."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.onednn, name) for name in NAMES)


@dataclass(frozen=True)
class Packed:
    """A layer as oneDNN reads it.

    weight      in oneDNN's own layout;  scales [O], bias [O] float32;  zeros [O]: what stands for 0 in the weight
    geometry    stride, padding, dilation and groups; None: a matrix product
    activation  "none", or oneDNN's name of what follows, with its limits
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor | None
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], int] | None
    activation: tuple[str, Sequence[float]]

    def __deepcopy__(self, memo: dict) -> "Packed":
        return self  # nothing changes it, and torch cannot read oneDNN's layout

    def __getstate__(self):
        raise TypeError(UNSAVED)


def pack(
    weight: Tensor, bias: Tensor | None, offset: float, geometry: tuple | None, activation: tuple, shape: Sequence[int]
) -> Packed:
    """weight [O, ...] and bias [O] float32 -> 8 bits.

    offset  the value that a 0 in the features stands for, at most 0; the bias takes it in
    shape   of features that will come, for which oneDNN chooses its layout: of others it turns the weight at each call
    """
    scales = (weight.flatten(1).abs().amax(dim=1) / MOST).clamp(min=torch.finfo(torch.float32).tiny)
    rounded = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().clamp(-MOST, MOST).to(torch.int8)
    if offset:
        taken = rounded.flatten(1).sum(dim=1) * scales * offset
        bias = taken if bias is None else bias + taken
    if geometry is None:
        packed = torch.ops.onednn.qlinear_prepack(rounded, list(shape))
    else:
        packed = torch.ops.onednn.qconv_prepack(rounded, scales, 1.0, 0, *geometry, list(shape))
    return Packed(packed, scales, torch.zeros_like(scales, dtype=torch.int64), bias, geometry, activation)


def run(x: Tensor, step: float, layer: Packed, to: Scale | None, dtype: torch.dtype) -> Tensor:
    """activation(layer of x).

    x       uint8 [K, C, H, W], channels-last in memory, or [K, C];  step: its own
    to      the result's; None: it is of `dtype`
    """
    given: tuple[Any, ...] = x, step, 0, layer.weight, layer.scales, layer.zeros, layer.bias
    out = (*(to or (1.0, 0)), dtype if to is None else torch.uint8)
    name, limits = layer.activation
    if layer.geometry is None:
        return torch.ops.onednn.qlinear_pointwise(*given, *out, name, list(limits), "")
    return torch.ops.onednn.qconv_pointwise(*given, *layer.geometry, *out, name, list(limits), "")


def run_sum(x: Tensor, step: float, layer: Packed, other: Tensor, own: Scale, to: Scale) -> Tensor:
    """activation(convolution of x + other), in other's place in memory; own: other's scale."""
    assert layer.geometry is not None
    given = x, step, 0, layer.weight, layer.scales, layer.zeros, other, layer.bias
    # What comes out is cut off at the largest that was seen, which is below an activation's own limit.
    after: tuple = "sum", 1.0, None if layer.activation[0] == "none" else "relu", [], ""
    run = torch.ops.onednn.qconv2d_pointwise.binary
    return run(*given, *layer.geometry, *to, torch.uint8, *own, *after)
