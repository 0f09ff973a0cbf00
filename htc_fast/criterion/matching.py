"""Which ground-truth box each candidate answers for: maximum IoU, in fixed shapes.

A candidate's match is the index of its ground-truth box, NEGATIVE (background) or IGNORED (takes no part).
"""

import torch
from torch import Tensor

from htc_fast.models.geometry import box_iou

NEGATIVE = -1
IGNORED = -2


def match(
    boxes: Tensor,
    valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None,
) -> Tensor:
    """Assign every candidate to a ground-truth box, to the background, or to nothing.

    boxes            [N, R, 4] or [1, R, 4]  candidates; one row serves every image
    valid            [N, R] bool             False: padding, never assigned
    gt_boxes         [N, G, 4]               ground truth, padded
    gt_valid         [N, G] bool
    positive_iou     IoU from which the best ground truth is taken
    negative_iou     IoU below which a candidate is background
    low_quality_iou  whoever ties a ground truth's best IoU is assigned to it too, if that IoU reaches this;
                     None: never
    returns          [N, R] int64: ground-truth index, NEGATIVE or IGNORED
    source           Faster R-CNN's rule as mmdetection's MaxIoUAssigner has it: later ground truths overwrite
    """
    return assign(box_iou(boxes, gt_boxes), valid, gt_valid, positive_iou, negative_iou, low_quality_iou)


def assign(
    iou: Tensor,
    valid: Tensor,
    gt_valid: Tensor,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None,
) -> Tensor:
    """`match` by overlaps iou [N, R, G] that are known."""
    iou = iou.masked_fill(~(valid[:, :, None] & gt_valid[:, None, :]), -1.0)
    if iou.shape[-1] == 0:
        return torch.full(valid.shape, NEGATIVE, device=valid.device).masked_fill(~valid, IGNORED)
    best, gt = iou.max(dim=2)
    assigned = torch.where(best >= positive_iou, gt, torch.where(best < negative_iou, NEGATIVE, IGNORED))
    if low_quality_iou is not None:
        top = iou.amax(dim=1, keepdim=True)
        tied = (iou == top) & (top >= low_quality_iou)
        order = torch.arange(1, iou.shape[2] + 1, device=iou.device, dtype=torch.int32)
        last = (tied * order).amax(dim=2).long() - 1
        assigned = torch.where(last >= 0, last, assigned)
    return assigned.masked_fill(~valid, IGNORED)


def anchors_inside(anchors: Tensor, image_sizes: Tensor, border: float) -> Tensor:
    """Which anchors may be trained on.

    anchors      [A, 4], or [N, A, 4] where they differ by image
    image_sizes  [N, 2]  height, width before padding
    border       pixels by which an anchor may leave the image; negative: any, if centred on the image or its
                 own padding to a multiple of 32
    returns      [N, A] bool
    """
    height, width = image_sizes[:, 0:1], image_sizes[:, 1:2]
    x1, y1, x2, y2 = anchors.unbind(dim=-1)
    if border < 0:
        padded = (image_sizes + 31) // 32 * 32
        return ((y1 + y2) / 2 < padded[:, 0:1]) & ((x1 + x2) / 2 < padded[:, 1:2])
    return (x1 >= -border) & (y1 >= -border) & (x2 < width + border) & (y2 < height + border)
