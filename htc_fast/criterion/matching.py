"""Which ground-truth box each candidate answers for: maximum IoU, in fixed shapes.

A candidate's match is the index of its ground-truth box, NEGATIVE (background) or IGNORED (takes no part).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from htc_fast.models.geometry import box_iou

NEGATIVE = -1
IGNORED = -2
PAIRS = 12_000_000  # of an image's candidates and objects that are compared at once
CACHED = 2**19  # of more, on a CPU: what its caches hold


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
    return assign(
        lambda some: box_iou(boxes[:, some], gt_boxes), valid, gt_valid, positive_iou, negative_iou, low_quality_iou
    )


def assign(
    overlaps: Callable[[slice], Tensor],
    valid: Tensor,
    gt_valid: Tensor,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None,
) -> Tensor:
    """`match` by overlaps that are known: some of the candidates -> IoU [N, r, G], asked for twice where they are many.

    With thousands of objects it takes little more memory than with a few: `PAIRS` are looked at together.
    """
    rows, objects = valid.shape[1], gt_valid.shape[1]
    if objects == 0:
        return torch.full(valid.shape, NEGATIVE, device=valid.device).masked_fill(~valid, IGNORED)
    step = rows
    if rows * objects > PAIRS:
        step = max((min(CACHED, PAIRS) if valid.device.type == "cpu" else PAIRS) // objects, 1)
    parts = [slice(first, min(first + step, rows)) for first in range(0, rows, step or 1)] or [slice(0, 0)]

    def iou_of(some: slice) -> Tensor:
        return overlaps(some).masked_fill(~(valid[:, some, None] & gt_valid[:, None, :]), -1.0)

    # All at once is worked out once.
    kept = iou_of(parts[0]) if len(parts) == 1 else None
    # Made first: small results between large passing ones would leave the memory in pieces.
    gt = torch.zeros(valid.shape, dtype=torch.int64, device=valid.device)
    best, last, top = torch.zeros_like(gt, dtype=torch.float32), gt.clone(), None
    for some in parts:
        iou = iou_of(some) if kept is None else kept
        best[:, some], gt[:, some] = iou.max(dim=2)
        if low_quality_iou is not None and rows:
            highest = iou.amax(dim=1, keepdim=True)
            top = highest if top is None else torch.maximum(top, highest)
    assigned = torch.where(best >= positive_iou, gt, torch.where(best < negative_iou, NEGATIVE, IGNORED))
    if top is not None and low_quality_iou is not None:
        order = torch.arange(1, objects + 1, device=valid.device, dtype=torch.int32)
        for some in parts:
            last[:, some] = _last_tied(iou_of(some) if kept is None else kept, top, low_quality_iou, order)
        assigned = torch.where(last >= 0, last, assigned)
    return assigned.masked_fill(~valid, IGNORED)


def _last_tied(iou: Tensor, top: Tensor, least: float, order: Tensor) -> Tensor:
    """The last ground truth whose best IoU top [N, 1, G] a candidate ties, [N, r] int64; -1: none."""
    tied = (iou == top) & (top >= least)
    return (tied * order).amax(dim=2).long() - 1


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
