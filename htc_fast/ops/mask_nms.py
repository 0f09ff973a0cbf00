"""Non-maximum suppression by masks instead of boxes."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend, _masks
from htc_fast.ops._arguments import choice, real
from htc_fast.ops._declare import declare
from htc_fast.ops.mask_iou import counts, share
from htc_fast.ops.reference import mask_iou as pairs
from htc_fast.ops.reference import mask_nms as reference

_backend.register("mask_nms", "cpp", "cuda")


def mask_nms(masks: Any, scores: Any, iou_threshold: float, idxs: Any = None, metric: str = "iou") -> Any:
    """Keep the best masks, and drop those that overlap a better one of their class.

    masks          K COCO RLE dicts, or masks [K, H, W] of bool, all of one size
    scores         [K]  ties go to the lower index; NaN is never kept
    iou_threshold  a mask goes if its overlap with a kept one is larger
    idxs           [K] classes, any integers; None: all are of one
    metric         "iou", or "smaller": what both share over the area of the smaller
    returns        [n] int64 indices, best first, where scores are; an array where one was given
    raises         ValueError, TypeError
    source         torchvision.ops.nms, with masks
    """
    found = _masks.masks("masks", masks)
    count = len(found) if isinstance(found, Tensor) else len(found.sizes)
    best, classes = _masks.scores_of(scores, count), _masks.classes_of(idxs, count)
    limit, metric = real("iou_threshold", iou_threshold), choice("metric", metric, _masks.METRICS)
    if isinstance(found, Tensor):
        device, over = best.device, share(metric, *counts(found, found)) > limit
        if classes is not None:
            classes = classes.to(over.device)
            over &= classes[:, None] == classes
        kept = reference.greedy(over.cpu(), _masks.ranked(best.cpu()))
    else:
        device, order = best.device, _masks.ranked(best.cpu())
        classes = None if classes is None else classes.cpu().contiguous()
        if _masks.native():
            kept = torch.ops.htc_fast.mask_nms(*found, order, classes, metric == "smaller", limit)
        else:
            over = share(metric, *pairs.counts_of_runs(found.runs, found.offsets, found.runs, found.offsets)) > limit
            over = over if classes is None else over & (classes[:, None] == classes)
            kept = reference.greedy(over, order)
    return _masks.like((masks, scores, idxs), kept.to(device))


def _fake(runs, offsets, sizes, order, classes, smaller, threshold):
    return sizes.new_empty(torch.library.get_ctx().new_dynamic_size())


declare(
    "mask_nms(Tensor runs, Tensor offsets, Tensor sizes, Tensor order, Tensor? classes, bool smaller, "
    "float threshold) -> Tensor",
    _fake,
)
