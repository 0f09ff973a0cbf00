"""Convolutions with what follows them in one launch on a GPU, for inference: bias, sum with another map, ReLU.

Who does it there depends on the layer: a 1x1 is a matrix product with cuBLASLt's epilogue, a ReLU at the end is
cuDNN's, and a 3x3 or 1x1 without ReLU is the Triton kernel of the heads. A 4x4 over folded images has its own, also in
Triton. What none of them takes goes as torch does it.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops import _backend, _cudnn
from htc_fast.ops._arguments import MOST, check_tensor, flag, integer, items, short
from htc_fast.ops._convolutions import check_maps, check_same, check_weight
from htc_fast.ops._declare import declare, maps_like
from htc_fast.ops.reference import convolution as reference

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FOLDED = 4, 4, 1, 1, 0, 0, 1, 1, 1  # kernel, stride, padding, dilation and groups over folded images


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    other: Tensor | None = None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """relu(convolution of x + bias + other), or without the ReLU; no gradient.

    x        [N, C, H, W]
    weight   [O, C / groups, kh, kw]
    bias     [O] or None
    other    [N, O, h, w] or None
    returns  [N, O, h, w], channels-last in memory
    raises   ValueError, TypeError
    """
    geometry = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    groups = integer("groups", groups, 1, MOST)
    _check(x, weight, bias, other, groups)
    if other is not None:
        wanted = _cudnn.size(x, weight, [side for pair in geometry for side in pair])
        if other.shape != wanted:
            raise ValueError(f"other must be {list(wanted)}, got {list(other.shape)}.")
    return torch.ops.htc_fast.convolution(x, weight, bias, other, *geometry, groups, flag("relu", relu))


def lateral(x: Tensor, weight: Tensor, bias: Tensor, coarser: Tensor) -> Tensor:
    """1x1 convolution of x plus the coarser map's nearest pixels, as a feature pyramid sums them; no gradient.

    x        [N, C, H, W]
    weight   [O, C, 1, 1], bias [O]
    coarser  [N, O, h, w]
    returns  [N, O, H, W], channels-last in memory
    raises   ValueError, TypeError
    source   FPN, figure 3; the nearest pixel is that of torch's `interpolate`
    """
    check_weight("weight", weight, bias, 1)
    check_tensor("coarser", coarser)
    _check(x, weight, bias, coarser, 1)
    if coarser.dim() != 4 or coarser.shape[:2] != (len(x), len(weight)) or 0 in coarser.shape[2:]:
        raise ValueError(f"coarser must be [{len(x)}, {len(weight)}, h, w], got {list(coarser.shape)}.")
    return torch.ops.htc_fast.lateral(x, weight, bias, coarser)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, groups: int) -> None:
    check_tensor("weight", weight)
    if weight.dim() != 4 or 0 in weight.shape or len(weight) % groups:
        raise ValueError(f"weight must be [O, C / groups, kh, kw] for {groups} groups, got {list(weight.shape)}.")
    check_maps("x", x, weight.shape[1] * groups)
    for name, one in (("bias", bias), ("other", other)):
        if one is not None:
            check_tensor(name, one)
    if bias is not None and (bias.dim() != 1 or len(bias) != len(weight)):
        raise ValueError(f"bias must be [{len(weight)}], got {list(bias.shape)}.")
    check_same(x, weight=weight, bias=bias, other=other)


def _pair(name: str, value: Sequence[int], least: int) -> list[int]:
    given = items(name, value)
    if len(given) != 2:
        raise ValueError(f"{name} must be two numbers, down and across, got {short(value)}.")
    return [integer(name, one, least, MOST) for one in given]


def _convolution(x, weight, bias, other, stride, padding, dilation, groups, relu):
    layer, out = (*stride, *padding, *dilation, groups), None
    if x.device.type == "cuda" and _backend.forced_backend() != "reference":
        out = _in_one_launch(x, weight, bias, other, layer, relu)
    if out is None:
        out = reference.convolution(x, weight, bias, other, stride, padding, dilation, groups, relu)
    return out.contiguous(memory_format=torch.channels_last)


def _in_one_launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None, geometry: tuple, relu: bool
) -> Tensor | None:
    """The result by whoever takes this layer; None if nobody does.

    geometry  stride, padding and dilation, two numbers each, and groups
    """
    if bias is None or x.dtype not in FLOATS:
        return None
    x = x.contiguous(memory_format=torch.channels_last)
    other = None if other is None else other.contiguous(memory_format=torch.channels_last)
    whole = tuple(weight.shape[2:]) + geometry
    pointwise, square = whole == (1, 1, 1, 1, 0, 0, 1, 1, 1), whole == (3, 3, 1, 1, 1, 1, 1, 1, 1)
    if pointwise and other is None and x.dtype != torch.float32:  # which cuBLAS would not multiply in TF32
        return _product(x, weight, bias, relu)
    if whole == FOLDED and _is_stem(x, weight, other) and _backend.in_triton(x):
        return torch.ops.htc_fast_triton.stem(x, weight, bias, relu)
    ours = square or (pointwise and _is_shallow(x))  # where our own may be the faster
    if relu and not (ours and _backend.in_triton(x)) and _cudnn.takes(x, weight, bias, other, geometry):
        return _cudnn.run(x, weight, bias, other, geometry)
    if (pointwise or square) and _backend.in_triton(x):  # which knows in what sizes it is faster than cuDNN
        return torch.ops.htc_fast_triton.convolution_sum(x, weight, bias, other, relu)
    return None


def _is_stem(x: Tensor, weight: Tensor, other: Tensor | None) -> bool:
    whole = x.shape[2] > 3 and x.shape[3] > 3
    return x.dtype != torch.float32 and tuple(weight.shape[:2]) == (64, 16) and other is None and whole


def _is_shallow(x: Tensor) -> bool:
    """Whether the last 1x1 of a block, with its residual, is one that `triton/resident.py` does in less time."""
    large = x.shape[1] == 64 and x.numel() >= 64 * 200 * 300
    return large and x.dtype != torch.float32 and _is_hopper(x.device)


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Also of a device that only a tensor without data is on."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) == (9, 0)


def _product(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """A 1x1 convolution as a matrix product over pixels, bias and ReLU in its epilogue."""
    rows, matrix = x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t()
    out = torch._addmm_activation(bias, rows, matrix) if relu else torch.addmm(bias, rows, matrix)
    return out.view(len(x), *x.shape[2:], len(weight)).permute(0, 3, 1, 2)


def _lateral(x, weight, bias, coarser):
    if _backend.in_triton(x) and x.dtype in FLOATS:
        return torch.ops.htc_fast_triton.lateral(x, weight, bias, coarser)
    return reference.lateral(x, weight, bias, coarser).contiguous(memory_format=torch.channels_last)


def _fake(x, weight, bias, other, stride, padding, dilation, groups, relu):
    count, outputs, height, width = _cudnn.size(x, weight, (*stride, *padding, *dilation))
    return maps_like(x, count, outputs, height, width)


def _fake_sum(x, weight, bias, other, relu):
    return maps_like(x, x.shape[0], weight.shape[0], *x.shape[2:])


def _fake_stem(x, weight, bias, relu):
    return maps_like(x, x.shape[0], weight.shape[0], x.shape[2] - 3, x.shape[3] - 3)


def _fake_lateral(x, weight, bias, coarser):
    return maps_like(x, x.shape[0], weight.shape[0], *x.shape[2:])


declare(
    "convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? other, int[] stride, int[] padding, int[] dilation, "
    "int groups, bool relu) -> Tensor",
    _fake,
    native=False,
    python=_convolution,
)
declare(
    "convolution_sum(Tensor x, Tensor weight, Tensor bias, Tensor? other, bool relu) -> Tensor",
    _fake_sum,
    native=False,
    triton="convolution",
)
declare(
    "stem(Tensor x, Tensor weight, Tensor bias, bool relu) -> Tensor",
    _fake_stem,
    native=False,
    triton="stem",
)
declare(
    "lateral(Tensor x, Tensor weight, Tensor bias, Tensor coarser) -> Tensor",
    _fake_lateral,
    native=False,
    triton="convolution",
    python=_lateral,
)
