"""Detections with Triton's NMS; what stands before it is the definition, some dozen of torch's kernels."""

from torch import Tensor

from htc_fast.ops.reference import detections as reference
from htc_fast.ops.triton.nms import batched_nms_padded


def detections(
    logits: list[Tensor],
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor | None,
    image_sizes: Tensor,
    std: list[float],
    average_logits: bool,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ops.detections`."""
    options = std, average_logits, score_threshold, iou_threshold, limit
    return reference.detections(logits, deltas, boxes, valid, image_sizes, *options, suppress=batched_nms_padded)
