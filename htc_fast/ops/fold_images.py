"""Images and weights for the 7x7 convolution that begins a ResNet: as one of 4x4 over two by two pixels at once.

With three channels and a step of two, a row of the kernel is 21 numbers, and no library multiplies those well. Folded,
it is four pixels of sixteen numbers, which lie side by side in memory.
"""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import FLOATS, check_floats, check_tensor, short
from htc_fast.ops._declare import declare, maps_like
from htc_fast.ops.reference import fold_images as reference


def fold_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast images and lay two by two of their pixels into one, within a border of zeros; for inference.

    images   [N, 3, H, W], lying in memory in any way
    returns  [N, 16, ceil(H / 2) + 3, ceil(W / 2) + 3] of dtype, channels-last in memory: two folded pixels of zeros
             above and to the left, one below and to the right
    raises   ValueError, TypeError
    """
    check_tensor("images", images)
    check_floats("images", images)
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be one of {', '.join(map(str, FLOATS))}, got {short(dtype)}.")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], got {list(images.shape)}.")
    return torch.ops.htc_fast.fold_images(images, dtype)


def fold_weight(weight: Tensor) -> Tensor:
    """The weight [O, 16, 4, 4] that does to folded images what `weight` does to images, in steps of two.

    weight  [O, 3, 7, 7], of a convolution with a padding of three
    raises  ValueError, TypeError
    """
    check_tensor("weight", weight)
    check_floats("weight", weight)
    if weight.dim() != 4 or tuple(weight.shape[1:]) != (3, 7, 7):
        raise ValueError(f"weight must be [O, 3, 7, 7], got {list(weight.shape)}.")
    return reference.fold_weight(weight)


def _run(images, dtype):
    if _backend.in_triton(images):
        return torch.ops.htc_fast_triton.fold_images(images, dtype)
    return reference.fold_images(images, dtype).contiguous(memory_format=torch.channels_last)


def _fake(images, dtype):
    count, _, height, width = images.shape
    return maps_like(images.new_empty(0, dtype=dtype), count, 16, (height + 1) // 2 + 3, (width + 1) // 2 + 3)


SCHEMA = "fold_images(Tensor images, ScalarType dtype) -> Tensor"
declare(SCHEMA, _fake, native=False, triton="fold_images", python=_run)
