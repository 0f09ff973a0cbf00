"""Proposals with Triton's NMS; what stands before it is the definition, a dozen of torch's kernels per level."""

import torch
from torch import Tensor

from htc_fast.ops.reference import propose as reference
from htc_fast.ops.triton.nms import batched_nms_padded


def propose(
    objectness: list[Tensor],
    deltas: list[Tensor],
    image_sizes: Tensor,
    anchors: list[float],
    strides: list[float],
    per_level: int,
    limit: int,
    iou_threshold: float,
    min_size: float,
    delta_std: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ops.propose`."""
    boxes, logits, levels = reference.candidates(
        objectness, deltas, image_sizes, anchors, strides, per_level, min_size, delta_std
    )
    indices, _ = batched_nms_padded(boxes, logits, levels, iou_threshold, limit, -torch.inf)
    return reference.chosen(boxes, logits, indices)
