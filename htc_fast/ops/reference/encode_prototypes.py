"""Masks of the image from prototypes and coefficients: their product, cropped to the box, resized, above the threshold.

The box cuts before the resize, in the prototypes' cells, or after it, in the image's pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference.encode_logits import resized


def product(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """coefficients [K, P], prototypes [P, h, w] -> [K, h, w] float32, prototype by prototype in their order."""
    coefficients, prototypes = coefficients.detach().float(), prototypes.detach().float()
    maps = prototypes.new_zeros(len(coefficients), *prototypes.shape[1:])
    for weight, prototype in zip(coefficients.T, prototypes):
        maps = maps + weight[:, None, None] * prototype
    return maps


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """boxes [K, 4] -> bool [K, height, width]: cells x with x1 <= x < x2, rows likewise."""
    x, y = (torch.arange(side, device=boxes.device, dtype=torch.float32) for side in (width, height))
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    return ((x >= x1) & (x < x2))[:, None] & ((y >= y1) & (y < y2))[:, :, None]


def encode_prototypes(
    coefficients: Tensor,
    prototypes: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float,
    crop: Sequence[float],
    cut_after: bool,
) -> Tensor:
    """boxes [K, 4] in pixels of the image -> the masks, bool [K, height, width]."""
    maps, boxes = product(coefficients, prototypes), boxes.detach().float()
    if cut_after:
        return (resized(maps, height, width, crop) > threshold) & inside(boxes, height, width)
    scale = boxes.new_tensor([(crop[2] - crop[0]) / max(width, 1), (crop[3] - crop[1]) / max(height, 1)] * 2)
    cells = boxes * scale + boxes.new_tensor([crop[0], crop[1]] * 2)
    maps = torch.where(inside(cells, *maps.shape[1:]), maps, 0.0)
    return resized(maps, height, width, crop) > threshold
