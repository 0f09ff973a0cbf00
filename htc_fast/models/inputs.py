"""Checks at the door of a detector: one sentence for images that it cannot take, before any layer meets them.

Shapes and types alone; values only where looking at them costs nothing.
"""

from typing import Any

import torch
from torch import Tensor

from htc_fast.models.structures import may_wait
from htc_fast.ops._arguments import FLOATS, check_device, check_tensor

SIZES = (torch.int64, torch.int32, torch.int16)  # of 8 bits no picture's side fits


def check_numbers(name: str, value: Any, kinds: tuple[torch.dtype, ...] = ()) -> None:
    """raises  TypeError where it is no dense tensor, or holds others than `kinds` (none: real numbers)"""
    check_tensor(name, value)
    if value.is_complex() or (kinds and value.dtype not in kinds):
        wanted = " or ".join(str(one).removeprefix("torch.") for one in kinds) or "real numbers"
        raise TypeError(f"{name} must be {wanted}, got {str(value.dtype).removeprefix('torch.')}.")


def check_images(images: Tensor, image_sizes: Tensor, like: Tensor | None = None) -> None:
    """raises  TypeError, ValueError where images [N, 3, H, W] or image_sizes [N, 2] are something else

    like  a weight, of whose type and device the images must be; None: any floating point
    """
    check_numbers("images", images)
    check_numbers("image_sizes", image_sizes, SIZES)
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be [N, 3, H, W], none of them zero, got {list(images.shape)}.")
    if images.dtype not in FLOATS:
        wanted = "normalised and floating point of 16, 32 or 64 bits"
        raise TypeError(f"images must be {wanted}, got {images.dtype}: predict takes pictures.")
    if like is not None:
        check_device("images", images, "the model", like)
    if like is not None and images.dtype != like.dtype and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(f"images must be {like.dtype} like the weights, got {images.dtype}.")
    if image_sizes.dim() != 2 or image_sizes.shape[0] != images.shape[0] or image_sizes.shape[1] != 2:
        raise ValueError(f"image_sizes must be [N, 2] = [{images.shape[0]}, 2], got {list(image_sizes.shape)}.")
    if like is not None:
        check_device("image_sizes", image_sizes, "the images", images)
    if torch.compiler.is_compiling():
        return
    height, width = images.shape[2:]
    if height % 32 or width % 32:
        raise ValueError(f"images must be padded to sides that 32 divides, got {height} x {width}.")
    if may_wait(image_sizes):
        sizes = image_sizes.tolist()
        if not all(0 < down <= height and 0 < across <= width for down, across in sizes):
            raise ValueError(f"image_sizes must be heights and widths within {height} x {width}, got {sizes}.")
