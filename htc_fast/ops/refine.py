"""What a cascade does between two stages: each box moved by the deltas of its best class, and clipped."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_floats, check_integers, check_sizes, check_tensors, reals
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import refine as reference

_backend.register("refine", "cpp", "cuda", "triton")


@torch.no_grad()
def refine(
    boxes: Tensor,
    logits: Tensor,
    deltas: Tensor,
    std: Sequence[float],
    image_sizes: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """Move boxes by their deltas, those of their best class where classes differ, and clip them to their image.

    boxes        [N, R, 4]            x1, y1, x2, y2 in pixels
    logits       [N, R, classes + 1]  background last; the lowest of equal classes is the best, the first NaN before all
    deltas       [N, R, 4], or [N, R, 4 * classes] where classes differ: dx, dy, dw, dh
    std          what deltas are multiplied by, four numbers
    image_sizes  [N, 2]               integers: height, width
    labels       [N, R]               integers: where deltas differ by class, the class that is known already; below
                                      zero: look; beyond the last class: zeros
    returns      [N, R, 4] float32; no gradient; not finite where the box is not
    raises       ValueError, TypeError
    source       HTC, section 3.1; deltas of R-CNN, sides changed by a factor of at most 62.5
    """
    std = check_moves(boxes, deltas, std, image_sizes)
    check_logits("logits", logits, boxes, deltas)
    if labels is not None:
        check_tensors(labels=labels)
        if labels.shape != boxes.shape[:2] or labels.dtype == torch.bool:
            raise ValueError(
                f"labels must be integers [N, R] = {list(boxes.shape[:2])}, got {labels.dtype} {list(labels.shape)}."
            )
        check_integers(labels=labels)
        if labels.device != boxes.device:
            raise ValueError(f"labels must be on {boxes.device} like boxes, got {labels.device}.")
    arguments = boxes, logits, deltas, std, image_sizes, labels
    backend = _backend.backend_for("refine", boxes)
    return reference.refine(*arguments) if backend == "reference" else _backend.library(backend).refine(*arguments)


def check_moves(boxes: Tensor, deltas: Tensor, std: Sequence[float], image_sizes: Tensor) -> list[float]:
    """std as a list, once everything fits together.

    raises  ValueError, TypeError
    """
    check_tensors(boxes=boxes, deltas=deltas, image_sizes=image_sizes)
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [N, R, 4], got {list(boxes.shape)}.")
    if deltas.dim() != 3 or deltas.shape[:2] != boxes.shape[:2]:
        raise ValueError(
            f"deltas must be [N, R, 4 or 4 * classes] for boxes {list(boxes.shape)}, got {list(deltas.shape)}."
        )
    check_floats("boxes", boxes)
    check_floats("deltas", deltas)
    check_integers(image_sizes=image_sizes)
    check_sizes(image_sizes)
    if image_sizes.shape != (boxes.shape[0], 2):
        raise ValueError(
            f"image_sizes must be integers [N, 2] = [{boxes.shape[0]}, 2], got {image_sizes.dtype} "
            f"{list(image_sizes.shape)}."
        )
    for name, one in (("deltas", deltas), ("image_sizes", image_sizes)):
        if one.device != boxes.device:
            raise ValueError(f"{name} must be on {boxes.device} like boxes, got {one.device}.")
    return reals("std", std, 4)


def check_logits(name: str, logits: Tensor, boxes: Tensor, deltas: Tensor) -> None:
    """raises  ValueError, TypeError where logits do not fit to boxes and deltas"""
    check_tensors(**{name: logits})
    if logits.dim() != 3 or logits.shape[:2] != boxes.shape[:2] or logits.shape[2] < 2:
        raise ValueError(f"{name} must be [N, R, classes + 1] for boxes {list(boxes.shape)}, got {list(logits.shape)}.")
    check_floats(name, logits)
    if logits.device != boxes.device:
        raise ValueError(f"{name} must be on {boxes.device} like boxes, got {logits.device}.")
    if deltas.shape[2] not in (4, 4 * (logits.shape[2] - 1)):
        raise ValueError(
            f"deltas must have 4 or 4 * {logits.shape[2] - 1} columns for {logits.shape[2] - 1} classes, "
            f"got {deltas.shape[2]}."
        )


def _fake(boxes, logits, deltas, std, image_sizes, labels):
    return boxes.new_empty(boxes.shape, dtype=torch.float32)


declare(
    "refine(Tensor boxes, Tensor logits, Tensor deltas, float[] std, Tensor image_sizes, Tensor? labels) -> Tensor",
    _fake,
    triton="refine",
)
