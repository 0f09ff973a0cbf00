"""The end of a detector: what logits and deltas say is there, without decoding what nobody wants."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_tensors, choice, count, items, real
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import detections as reference
from htc_fast.ops.refine import check_logits, check_moves

AVERAGES = ("logits", "probabilities")
MOST_STAGES = 8
_backend.register("detections", "cpp", "cuda", "triton")


@torch.no_grad()
def detections(
    logits: Sequence[Tensor],
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor | None,
    image_sizes: Tensor,
    *,
    std: Sequence[float],
    score_average: str,
    score_threshold: float,
    iou_threshold: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best of all classes: ensemble, softmax, threshold, boxes of what is left, NMS within each class.

    logits           1 to 8 stages' [N, R, classes + 1]  background last; rows with NaN or +inf are never kept
    deltas           [N, R, 4 | 4 * classes]             of the last stage, multiplied by std
    boxes            [N, R, 4]                           that went into it;  valid [N, R] bool, None: all are
    image_sizes      [N, 2]                              integers: height, width; boxes are clipped to it
    score_average    what is averaged over the stages: "logits", or "probabilities" as detectron2 does
    score_threshold  scores must be larger
    iou_threshold    a box goes if its IoU with a better one of its class is larger
    limit            D
    returns          boxes [N, D, 4] and scores [N, D] float32, zeros where padded; labels [N, D] int64, -1 there;
                     count [N] int32; best first, equal scores by row, then by class; no gradient
    raises           ValueError, TypeError
    source           HTC, section 3.1; ensembles as in mmdetection 2.x
    """
    std = check_moves(boxes, deltas, std, image_sizes)
    logits = items("logits", logits)
    if not 1 <= len(logits) <= MOST_STAGES:
        raise ValueError(f"logits must be those of 1 to {MOST_STAGES} stages, got {len(logits)}.")
    for number, one in enumerate(logits):
        check_logits(f"logits[{number}]", one, boxes, deltas)
        if one.shape != logits[0].shape:
            raise ValueError(f"logits must have one shape, got {list(logits[0].shape)} and {list(one.shape)}.")
    if valid is not None:
        check_tensors(valid=valid)
        wanted = boxes.shape[:2]
        if valid.shape != wanted or valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool [N, R] = {list(wanted)}, got {valid.dtype} {list(valid.shape)}.")
        if valid.device != boxes.device:
            raise ValueError(f"valid must be on {boxes.device} like boxes, got {valid.device}.")
    choice("score_average", score_average, AVERAGES)
    limit = count("limit", limit)
    thresholds = real("score_threshold", score_threshold), real("iou_threshold", iou_threshold)
    arguments = logits, deltas, boxes, valid, image_sizes, std, score_average == "logits", *thresholds, limit
    backend = _backend.backend_for("detections", boxes)
    run = reference.detections if backend == "reference" else _backend.library(backend).detections
    return run(*arguments)


def _fake(
    logits, deltas, boxes, valid, image_sizes, std, average_logits, score_threshold, iou_threshold, limit
):  # fmt: skip
    images = boxes.shape[0]
    found = boxes.new_empty(images, limit, 4, dtype=torch.float32)
    labels = boxes.new_empty(images, limit, dtype=torch.int64)
    scores = boxes.new_empty(images, limit, dtype=torch.float32)
    return found, scores, labels, boxes.new_empty(images, dtype=torch.int32)


declare(
    "detections(Tensor[] logits, Tensor deltas, Tensor boxes, Tensor? valid, Tensor image_sizes, float[] std, "
    "bool average_logits, float score_threshold, float iou_threshold, int limit) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake,
    triton="detections",
)
