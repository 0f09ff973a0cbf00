"""What the operators over convolutions share: checks at the door, and autocast for kernels that autocast cannot see."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.ops import _onednn, packed_convolution
from htc_fast.ops._arguments import FLOATS, check_device, check_floats, check_tensor

PLAIN = Tensor, nn.Parameter


def good_layer(x: Tensor, weight: Tensor, bias: Tensor, kernel: int, channels: int, outputs: int = 0) -> bool:
    """Whether a layer passes `check_weight` and `check_same` for x, which is good, and takes in `channels`.

    By few looks: it is asked at every call, and its no is not final.
    """
    dtype, device = x.dtype, x.device
    for one in (weight, bias):
        if type(one) not in PLAIN or one.is_nested or one.layout is not torch.strided or one.device != device:
            return False
        if one.dtype is not dtype and not (one.dtype in FLOATS and torch.is_autocast_enabled(device.type)):
            return False
    shape = weight.shape
    if len(shape) != 4 or shape[2] != kernel or shape[3] != kernel or shape[1 - outputs] != channels:
        return False
    return bias.dim() == 1 and bias.shape[0] == shape[outputs] > 0


def good_maps(*maps: Tensor) -> bool:
    """Whether all pass `check_maps`, and `check_same` for the first; no is not final here either."""
    for one in maps:
        if type(one) not in PLAIN or one.is_nested or one.layout is not torch.strided or one.dtype not in FLOATS:
            return False
        if one.dim() != 4 or (one.numel() == 0 and 0 in one.shape[1:]):
            return False
    first = maps[0]
    return all(one.dtype is first.dtype and one.device == first.device for one in maps[1:])


def check_maps(name: str, maps: Tensor, channels: int | None = None) -> None:
    """raises  ValueError unless maps is [K, C, H, W] (of `channels` channels); TypeError unless it holds floats"""
    check_tensor(name, maps)
    shape = maps.shape
    if len(shape) != 4:
        raise ValueError(f"{name} must be [K, C, H, W], got {list(shape)}.")
    if 0 in shape[1:]:
        raise ValueError(f"{name} must have channels and pixels, got {list(shape)}.")
    check_floats(name, maps)
    if channels is not None and shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels for these weights, got {list(shape)}.")


def check_weight(name: str, weight: Tensor, bias: Tensor, kernel: int, outputs: int = 0) -> None:
    """raises  ValueError unless weight is [O, C, kernel, kernel] and bias [O]; outputs: where O stands in weight"""
    check_tensor(name, weight)
    check_tensor(f"the bias of {name}", bias)
    shape = weight.shape
    if len(shape) != 4 or shape[2] != kernel or shape[3] != kernel:
        wanted = "[C, O" if outputs else "[O, C"
        raise ValueError(f"{name} must be {wanted}, {kernel}, {kernel}], got {list(shape)}.")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got {list(shape)}.")
    if bias.dim() != 1 or len(bias) != shape[outputs]:
        raise ValueError(f"the bias of {name} must be [{shape[outputs]}], got {list(bias.shape)}.")


def check_labels(labels: Tensor, maps: Tensor) -> None:
    """raises  ValueError unless labels is [K] integers, on the maps' device; TypeError where it is no tensor"""
    check_tensor("labels", labels)
    if labels.shape != maps.shape[:1] or labels.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"labels must be [{len(maps)}] integers (int32 or int64), got {list(labels.shape)} {labels.dtype}."
        )
    check_device("labels", labels, "the input", maps)


def check_same(first: Tensor, **others: Tensor | None) -> None:
    """raises  ValueError where another is on another device, TypeError where its type differs without autocast"""
    for name, other in others.items():
        if other is None:
            continue
        check_device(name, other, "the input", first)
        if other.dtype != first.dtype:
            if not torch.is_autocast_enabled(first.device.type):
                raise TypeError(f"{name} must be {first.dtype} like the input, got {other.dtype}.")
            check_floats(name, other)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """The tensors (or None, but the first) in autocast's type where it is on for their device; else as they are."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # it does not know meta
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(one if one is None or one.dtype is dtype else one.to(dtype) for one in tensors)


def convolution_relu(
    x: Tensor, weight: Tensor, bias: Tensor, packed: packed_convolution.Packed | None = None
) -> Tensor:
    """relu(3x3 convolution), through torch; in one pass where that is offered and nothing looks on."""
    if packed is not None and _onednn.unwatched(x):
        (taken,) = autocast(x)
        if packed.fits(weight, taken.dtype):
            return packed_convolution.convolution(taken, packed.values, bias, relu=True)
    if packed_convolution.learns(x, weight):
        return packed_convolution.learned(x, weight, bias, relu=True)
    return _relu(x, weight, bias, 1)


def pointwise_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(1x1 convolution), in the same way."""
    if packed_convolution.learns(x, weight):
        return packed_convolution.learned(x, weight, bias, relu=True)
    return _relu(x, weight, bias, 0)


def _relu(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    if not can_fuse(x):
        return F.conv2d(x, weight, bias, padding=padding).relu_()
    return _onednn.convolution(x, (weight, bias, [padding] * 2, [1, 1], [1, 1], 1), "relu")


def can_fuse(x: Tensor) -> bool:
    """Whether oneDNN takes a convolution of x with what follows it, and nothing looks on."""
    return _onednn.unwatched(x) and _onednn.computes(x.dtype) and not torch.is_autocast_enabled("cpu")
