"""Boxes moved by their deltas: each box by those of its best class, and clipped to its image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference.boxes import decode_boxes


def refine(
    boxes: Tensor, logits: Tensor, deltas: Tensor, std: Sequence[float], image_sizes: Tensor, labels: Tensor | None
) -> Tensor:
    """boxes [N, R, 4], logits [N, R, classes + 1], deltas [N, R, 4 | 4 * classes] -> boxes [N, R, 4]."""
    if deltas.shape[2] == 4:
        return decode_boxes(deltas, boxes, std, image_sizes)
    classes = logits.shape[2] - 1
    best = logits[..., :-1].argmax(dim=2)
    labels = best if labels is None else torch.where(labels.long() < 0, best, labels.long())
    index = labels.clamp(max=classes - 1)[..., None, None].expand(-1, -1, 1, 4)
    own = deltas.unflatten(2, (classes, 4)).gather(2, index)[:, :, 0]
    return decode_boxes(own, boxes, std, image_sizes).masked_fill((labels >= classes)[..., None], 0.0)
