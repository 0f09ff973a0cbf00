"""Soft-NMS per class (Bodla et al., ICCV 2017), in C++ and CUDA, and a padded one that never waits."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_floats, check_integers, check_tensors, choice, count, real
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import soft_nms as reference

METHODS = ("linear", "gaussian")
for _name in ("soft_nms", "soft_nms_padded"):
    _backend.register(_name, "cpp", "cuda")


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    *,
    method: str = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Decay the scores of boxes that overlap better ones of their class, and keep those that stay visible.

    boxes          [K, 4]  x1, y1, x2, y2 in pixels; NaN or infinite ones are never kept
    scores         [K]     NaN, infinite or negative ones are never kept
    idxs           [K]     classes, any integers
    method         "linear": times 1 - IoU where IoU >= iou_threshold; "gaussian": times exp(-IoU^2 / sigma)
    iou_threshold  for "linear"
    sigma          for "gaussian", > 0
    min_score      boxes that fall below it are dropped
    max_output     how many to return at most; None: all
    returns        indices [n] int64 and decayed scores [n] float32, best first, ties by index; no gradient
    raises         ValueError for wrong shapes or options
    source         Soft-NMS, section 3; candidates and defaults as in mmcv
    """
    check_tensors(boxes=boxes, scores=scores, idxs=idxs)
    _check(boxes, scores, idxs, 2, method)
    iou_threshold, sigma, least = _options(iou_threshold, sigma, min_score)
    most = len(boxes)
    if max_output is not None:
        most = min(count("max_output", max_output), len(boxes))
    boxes, scores = boxes.detach(), scores.detach()
    if _backend.backend_for("soft_nms", boxes) == "reference":
        return reference.soft_nms(boxes, scores, idxs, method, iou_threshold, sigma, least, most)
    return torch.ops.htc_fast.soft_nms(boxes, scores, idxs, method == "gaussian", iou_threshold, sigma, least, most)


def soft_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    *,
    method: str = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    max_output: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`soft_nms` of many images at once, with shapes that do not depend on the data.

    boxes       [N, B, 4];  scores [N, B];  idxs [N, B] any integers; the options are those of `soft_nms`
    max_output  how many to keep at most; may be more than B
    returns     indices [N, max_output] int64, best first, ties by index, padded with -1; decayed scores
                [N, max_output] float32 padded with 0; counts [N] int32; no gradient
    raises      ValueError, TypeError
    source      Soft-NMS, section 3
    """
    check_tensors(boxes=boxes, scores=scores, idxs=idxs)
    _check(boxes, scores, idxs, 3, method)
    max_output = count("max_output", max_output)
    iou_threshold, sigma, least = _options(iou_threshold, sigma, min_score)
    boxes, scores = boxes.detach(), scores.detach()
    if _backend.backend_for("soft_nms_padded", boxes) == "reference":
        return reference.soft_nms_padded(boxes, scores, idxs, method, iou_threshold, sigma, least, max_output)
    return torch.ops.htc_fast.soft_nms_padded(
        boxes, scores, idxs, method == "gaussian", iou_threshold, sigma, least, max_output
    )


def _options(iou_threshold: float, sigma: float, min_score: float) -> tuple[float, float, float]:
    iou_threshold, sigma = real("iou_threshold", iou_threshold), real("sigma", sigma)
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}.")
    # A negative score would rise as it decays.
    return iou_threshold, sigma, max(real("min_score", min_score), 0.0)


def _check(boxes: Tensor, scores: Tensor, idxs: Tensor, rank: int, method: str) -> None:
    if boxes.dim() != rank or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be {'[K, 4]' if rank == 2 else '[N, B, 4]'}, got {list(boxes.shape)}.")
    for name, value in (("scores", scores), ("idxs", idxs)):
        if value.shape != boxes.shape[:-1]:
            raise ValueError(f"{name} must be {list(boxes.shape[:-1])} like boxes, got {list(value.shape)}.")
        if value.device != boxes.device:
            raise ValueError(f"{name} must be on {boxes.device} like boxes, got {value.device}.")
    check_floats("boxes", boxes)
    check_floats("scores", scores)
    check_integers(idxs=idxs)
    choice("method", method, METHODS)


def _fake(boxes, scores, idxs, gaussian, iou_threshold, sigma, min_score, max_output):
    kept = torch.library.get_ctx().new_dynamic_size(min=0, max=max_output)
    return idxs.new_empty(kept, dtype=torch.int64), scores.new_empty(kept, dtype=torch.float32)


def _fake_padded(boxes, scores, idxs, gaussian, iou_threshold, sigma, min_score, max_output):
    images = boxes.shape[0]
    indices = idxs.new_empty(images, max_output, dtype=torch.int64)
    decayed = scores.new_empty(images, max_output, dtype=torch.float32)
    return indices, decayed, scores.new_empty(images, dtype=torch.int32)


_ARGUMENTS = (
    "Tensor boxes, Tensor scores, Tensor idxs, bool gaussian, float iou_threshold, float sigma, float min_score, "
    "int max_output"
)
declare(f"soft_nms({_ARGUMENTS}) -> (Tensor, Tensor)", _fake)
declare(f"soft_nms_padded({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)", _fake_padded)
