"""Non-maximum suppression: torchvision's functions, exact per class, and a padded one that never waits."""

import torch
from torch import Tensor

from htc_fast.errors import ShapeError
from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_device, check_floats, check_integers, check_tensors, count, real
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import nms as reference

for _name in ("nms", "batched_nms", "batched_nms_padded"):
    _backend.register(_name, "cpp", "cuda", "triton")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best boxes, and drop those that overlap a better one.

    boxes          [K, 4]  x1, y1, x2, y2 in pixels; ones that are not finite are never kept
    scores         [K]     ties go to the lower index; NaN is never kept
    iou_threshold  a box goes if its IoU with a kept one is larger
    returns        [n] int64 indices, best first
    raises         ShapeError, ValueError, TypeError
    source         torchvision's signature and results; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        return torch.ops.htc_fast.batched_nms(boxes.detach(), scores.detach(), None, iou_threshold)
    else:
        return _nms("nms", boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class; no coordinate is shifted, so 16-bit boxes are right too.

    boxes    [K, 4];  scores [K];  idxs [K] any numbers
    returns  [n] int64 indices, best first over all classes; none for boxes of any shape without numbers
    raises   ShapeError, ValueError, TypeError
    source   torchvision's signature and results; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        if boxes.numel() == 0:
            return torch.empty((0,), dtype=torch.int64, device=boxes.device)
        classes = _classes(idxs)
        return torch.ops.htc_fast.batched_nms(boxes.detach(), scores.detach(), classes, iou_threshold)
    elif isinstance(boxes, Tensor) and boxes.shape == (0,):  # torch.tensor([]): no boxes, whatever the rest is
        return boxes.new_empty(0, dtype=torch.int64)
    else:
        return _nms("batched_nms", boxes, scores, idxs, iou_threshold)


def _nms(name: str, boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    check_tensors(boxes=boxes, scores=scores)
    if name == "batched_nms":
        check_tensors(idxs=idxs)
        idxs = _classes(idxs)  # type: ignore[arg-type]
    _check(boxes, scores, idxs, 2)
    iou_threshold = real("iou_threshold", iou_threshold)
    backend = _backend.backend_for(name, boxes)
    if backend == "reference":
        classes = torch.zeros_like(scores, dtype=torch.int64) if idxs is None else idxs
        return reference.batched_nms(boxes, scores, classes, iou_threshold)
    return _backend.library(backend).batched_nms(boxes.detach(), scores.detach(), idxs, iou_threshold)


def _classes(idxs: Tensor) -> Tensor:
    """Classes of floats, numbered."""
    return torch.unique(idxs, return_inverse=True)[1] if idxs.is_floating_point() else idxs


def batched_nms_padded(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    max_output: int,
    score_threshold: float = -torch.inf,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` of many images at once, with shapes that do not depend on the data.

    boxes            [N, B, 4];  scores [N, B];  idxs [N, B] any integers
    max_output       how many to keep at most; the search ends there
    score_threshold  candidates must score more
    returns          indices [N, max_output] int64, best first, padded with -1; counts [N] int32
    raises           ValueError, TypeError
    source           the boxes that torchvision's batched_nms keeps, equal scores in order of their index
    """
    if idxs is None:
        raise TypeError("idxs must be [N, B] integers, got None: give zeros where all boxes are of one class.")
    check_tensors(boxes=boxes, scores=scores, idxs=idxs)
    _check(boxes, scores, idxs, 3)
    thresholds = real("iou_threshold", iou_threshold), real("score_threshold", score_threshold)
    arguments = thresholds[0], count("max_output", max_output), thresholds[1]
    backend = _backend.backend_for("batched_nms_padded", boxes)
    if backend == "reference":
        return reference.batched_nms_padded(boxes, scores, idxs, *arguments)
    return _backend.library(backend).batched_nms_padded(boxes.detach(), scores.detach(), idxs, *arguments)


def _check(boxes: Tensor, scores: Tensor, idxs: Tensor | None, rank: int) -> None:
    wanted = "[K, 4]" if rank == 2 else "[N, B, 4]"
    if boxes.dim() != rank or boxes.shape[-1] != 4:
        raise ShapeError(f"boxes must be {wanted}, got {list(boxes.shape)}.")
    check_floats("boxes", boxes)
    check_floats("scores", scores)
    for name, value in (("scores", scores), ("idxs", idxs)):
        if value is None:
            continue
        if value.shape != boxes.shape[:-1]:
            raise ShapeError(f"{name} must be {list(boxes.shape[:-1])} like boxes, got {list(value.shape)}.")
        check_device(name, value, "boxes", boxes)
    if idxs is not None:
        check_integers(idxs=idxs)


def _fake(boxes, scores, idxs, iou_threshold):
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _fake_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold):
    images = boxes.shape[0]
    return boxes.new_empty(images, max_output, dtype=torch.int64), boxes.new_empty(images, dtype=torch.int32)


declare("batched_nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold) -> Tensor", _fake, triton="nms")
declare(
    "batched_nms_padded(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold, int max_output, "
    "float score_threshold) -> (Tensor, Tensor)",
    _fake_padded,
    triton="nms",
)
