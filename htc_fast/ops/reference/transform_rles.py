"""crop, resize, flip and shift in plain PyTorch, on decoded masks [H, W]."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from htc_fast.ops.reference.encode import encode


def each(rles: list[dict[str, Any]], image: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
    """K dicts, decoded one by one, through `image`, encoded again."""
    from pycocotools import mask as coco_mask  # here, not above: the operators need torch alone

    masks = [image(torch.from_numpy(coco_mask.decode(one))) for one in rles]
    return [{"size": list(mask.shape), "counts": encode(mask[None])[0]} for mask in masks]


def flip(mask: Tensor, horizontal: bool) -> Tensor:
    """[H, W] -> [H, W]"""
    return mask.flip(1 if horizontal else 0)


def resize(mask: Tensor, height: int, width: int) -> Tensor:
    """[H, W] -> [height, width]"""
    return F.interpolate(mask[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0]


def move(mask: Tensor, dx: int, dy: int, image_size: tuple[int, int] | None) -> Tensor:
    """[H, W] -> image_size, or its own: the pixel at (x, y) comes to (x + dx, y + dy)."""
    out = mask.new_zeros(image_size or mask.shape)
    (top, bottom), (left, right) = (
        (min(max(by, 0), new), max(min(old + by, new), 0)) for by, old, new in zip((dy, dx), mask.shape, out.shape)
    )
    if top < bottom and left < right:
        out[top:bottom, left:right] = mask[top - dy : bottom - dy, left - dx : right - dx]
    return out
