"""Boxes moved by their deltas and clipped, as every detector of this family does it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference import exact

# A box changes its sides by at most this factor (62.5), both ways.
LARGEST_CHANGE = math.log(1000 / 16)


def decode_boxes(deltas: Tensor, boxes: Tensor, std: Sequence[float], image_sizes: Tensor | None) -> Tensor:
    """Apply deltas to boxes and clip them to their image.

    deltas       [N, ..., 4];  boxes [N, ..., 4] (broadcast)
    image_sizes  [N, 2] height, width; None: no clipping
    """
    deltas, boxes = deltas.float() * row(std, deltas.float()), boxes.float()
    centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
    centre = centre + size * deltas[..., :2]
    half = size * exact.exponential(deltas[..., 2:].clamp(-LARGEST_CHANGE, LARGEST_CHANGE)) * 0.5
    decoded = torch.cat([centre - half, centre + half], dim=-1)
    return decoded if image_sizes is None else clip_boxes(decoded, image_sizes)


def row(values: Sequence[float], like: Tensor) -> Tensor:
    """[len(values)]: built by filling, not by copying from the host, which would wait for the device."""
    return torch.stack([torch.full((), value, dtype=like.dtype, device=like.device) for value in values])


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """boxes [N, ..., 4] moved inside image_sizes [N, 2] (height, width)."""
    limit = image_sizes.flip(1).repeat(1, 2).to(boxes.dtype)
    limit = limit.view(limit.shape[0], *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)
