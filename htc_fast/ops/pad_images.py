"""Images as the first convolution of a GPU wants them: in its type, channels-last, and of a width for tensor cores."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import FLOATS, check_floats, check_tensor, integer, short
from htc_fast.ops._declare import declare, maps_like
from htc_fast.ops.reference import pad_images as reference


def pad_images(images: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Cast images and put channels of zeros behind their own; for inference.

    images    [N, C, H, W], lying in memory in any way
    channels  C or more; more: a power of two
    returns   [N, channels, H, W] of dtype, channels-last in memory
    raises    ValueError, TypeError
    """
    check_tensor("images", images)
    check_floats("images", images)
    channels = integer("channels", channels, 1, 2**15)
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be one of {', '.join(map(str, FLOATS))}, got {short(dtype)}.")
    if images.dim() != 4 or images.shape[1] > channels:
        raise ValueError(f"images must be [N, C, H, W] of at most {channels} channels, got {list(images.shape)}.")
    if images.shape[1] == channels:
        return images.to(dtype=dtype, memory_format=torch.channels_last)
    if channels & (channels - 1):
        raise ValueError(f"channels must be a power of two, got {channels}.")
    return torch.ops.htc_fast.pad_images(images, channels, dtype)


def _run(images, channels, dtype):
    if _backend.in_triton(images):
        return torch.ops.htc_fast_triton.pad_images(images, channels, dtype)
    return reference.pad_images(images, channels, dtype).contiguous(memory_format=torch.channels_last)


def _fake(images, channels, dtype):
    return maps_like(images.new_empty(0, dtype=dtype), images.shape[0], channels, *images.shape[2:])


SCHEMA = "pad_images(Tensor images, int channels, ScalarType dtype) -> Tensor"
declare(SCHEMA, _fake, native=False, triton="pad_images", python=_run)
