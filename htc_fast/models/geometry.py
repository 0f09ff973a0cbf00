"""Boxes (x1, y1, x2, y2) in pixels: regression deltas, overlaps, clipping."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops.reference.boxes import LARGEST_CHANGE, row


def encode_boxes(boxes: Tensor, gt: Tensor, std: Sequence[float]) -> Tensor:
    """Deltas (dx, dy, dw, dh) that turn `boxes` into `gt`, over std.

    boxes, gt  [..., 4];  returns  [..., 4], finite for degenerate boxes too
    """
    size, gt_size = (boxes[..., 2:] - boxes[..., :2]), (gt[..., 2:] - gt[..., :2])
    size, gt_size = size.clamp(min=1e-6), gt_size.clamp(min=1e-6)
    centre, gt_centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5, (gt[..., :2] + gt[..., 2:]) * 0.5
    deltas = torch.cat([(gt_centre - centre) / size, torch.log(gt_size / size)], dim=-1)
    return deltas / row(std, deltas)


def decode_boxes(deltas: Tensor, boxes: Tensor, std: Sequence[float]) -> Tensor:
    """`boxes` moved by deltas over std, with a gradient; nothing is clipped to an image.

    deltas, boxes  [..., 4];  returns  [..., 4], sides changed by a factor of at most 62.5, as `ops.refine` does
    """
    deltas = deltas * row(std, deltas)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-LARGEST_CHANGE, LARGEST_CHANGE).exp() * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def box_iou(boxes: Tensor, gt: Tensor) -> Tensor:
    """boxes [N | 1, R, 4], gt [N, G, 4] -> IoU [N, R, G]; 0 where both are empty."""
    top_left = torch.maximum(boxes[:, :, None, :2], gt[:, None, :, :2])
    bottom_right = torch.minimum(boxes[:, :, None, 2:], gt[:, None, :, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area, gt_area = ((one[..., 2:] - one[..., :2]).prod(dim=-1) for one in (boxes, gt))
    return shared / (area[:, :, None] + gt_area[:, None] - shared).clamp(min=1e-6)


def to_rois(boxes: Tensor) -> Tensor:
    """boxes [N, R, 4] -> [N, R, 5] with the image's number in front."""
    number = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([number[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=2)
