"""Matrix NMS: every mask's score decays by its overlaps with better ones, all at once."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend, _masks
from htc_fast.ops._arguments import choice, positive
from htc_fast.ops.mask_iou import counts, iou, iou_of_runs
from htc_fast.ops.reference import matrix_nms as reference

KERNELS = ("gaussian", "linear")
_backend.register("matrix_nms", "cpp", "cuda")


def matrix_nms(masks: Any, scores: Any, idxs: Any, *, kernel: str = "gaussian", sigma: float = 2.0) -> Any:
    """Decay scores by the overlaps of masks with better ones of their class; nothing is dropped.

    masks    K COCO RLE dicts, or masks [K, H, W] of bool, all of one size
    scores   [K]  of equal ones the lower index is the better; NaN stays, and decays nobody
    idxs     [K] classes, any integers; None: all are of one
    kernel   "gaussian": exp(-sigma * IoU^2); "linear": 1 - IoU; over the same of what the better one itself suffers
    sigma    for "gaussian", > 0
    returns  [K] decayed scores, in the order they came in; no gradient; an array where one was given
    raises   ValueError, TypeError
    source   SOLOv2 (Wang et al., NeurIPS 2020), section 3.3; mmdetection's mask_matrix_nms before it drops any
    """
    found = _masks.masks("masks", masks)
    count = len(found) if isinstance(found, Tensor) else len(found.sizes)
    best, classes = _masks.scores_of(scores, count), _masks.classes_of(idxs, count)
    kernel, sigma = choice("kernel", kernel, KERNELS), positive("sigma", sigma)
    overlaps = iou(*counts(found, found)) if isinstance(found, Tensor) else iou_of_runs(found, found)
    overlaps = overlaps.to(best.device)
    kinds = torch.zeros_like(best, dtype=torch.int64) if classes is None else classes.to(best.device)
    decayed = reference.decayed(overlaps, best, kinds, kernel, sigma)
    return _masks.like((masks, scores, idxs), decayed)
