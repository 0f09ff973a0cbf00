"""Boxes moved by their deltas: each box by those of its best class, and clipped to its image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A box changes its sides by at most this factor (62.5), both ways.
LARGEST_CHANGE = abs(math.log(16 / 1000))


def refine(
    boxes: Tensor, logits: Tensor, deltas: Tensor, std: Sequence[float], image_sizes: Tensor, labels: Tensor | None
) -> Tensor:
    """boxes [N, R, 4], logits [N, R, classes + 1], deltas [N, R, 4 | 4 * classes] -> boxes [N, R, 4]."""
    if deltas.shape[2] == 4:
        return decode_boxes(deltas, boxes, std, image_sizes)
    classes = logits.shape[2] - 1
    best = logits[..., :-1].argmax(dim=2)
    labels = best if labels is None else torch.where(labels < 0, best, labels)
    index = labels.clamp(max=classes - 1)[..., None, None].expand(-1, -1, 1, 4)
    own = deltas.unflatten(2, (classes, 4)).gather(2, index)[:, :, 0]
    return decode_boxes(own, boxes, std, image_sizes).masked_fill((labels >= classes)[..., None], 0.0)


def decode_boxes(deltas: Tensor, boxes: Tensor, std: Sequence[float], image_sizes: Tensor | None) -> Tensor:
    """Apply deltas to boxes and clip them to their image.

    deltas       [N, ..., 4];  boxes [N, ..., 4] (broadcast)
    image_sizes  [N, 2] height, width; None: no clipping
    """
    deltas, boxes = deltas.float() * row(std, deltas.float()), boxes.float()
    centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
    centre = centre + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-LARGEST_CHANGE, LARGEST_CHANGE).exp() * 0.5
    decoded = torch.cat([centre - half, centre + half], dim=-1)
    return decoded if image_sizes is None else clip_boxes(decoded, image_sizes)


def row(values: Sequence[float], like: Tensor) -> Tensor:
    """[len(values)]: built by filling, not by copying from the host, which would wait for the device."""
    return torch.stack([torch.full((), value, dtype=like.dtype, device=like.device) for value in values])


def clip_boxes(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """boxes [N, ..., 4] moved inside image_sizes [N, 2] (height, width)."""
    limit = image_sizes.flip(1).repeat(1, 2).to(boxes.dtype)
    limit = limit.view(len(limit), *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)
