"""What is no tensor, no number or no count is told in one sentence, by every operator over boxes alike."""

import re

import numpy as np
import pytest
import torch

from htc_fast import ops

NAN = float("nan")
BOXES, SCORES, IDXS = torch.rand(2, 5, 4), torch.rand(2, 5), torch.zeros(2, 5, dtype=torch.int64)
MASKS, SIZES = torch.rand(5, 7, 7), torch.tensor([[20, 30], [20, 30]])
LOGITS, DELTAS, STD = torch.rand(2, 5, 4), torch.rand(2, 5, 12), (0.1, 0.1, 0.2, 0.2)
OBJECTNESS, MOVES, ANCHORS = [torch.rand(2, 3, 4, 5)], [torch.rand(2, 12, 4, 5)], [[[-8, -8, 8, 8]] * 3]

CALLS = {
    "nms": lambda boxes=BOXES[0], scores=SCORES[0], iou_threshold=0.5: ops.nms(boxes, scores, iou_threshold),
    "batched_nms": lambda idxs=IDXS[0], iou_threshold=0.5: ops.batched_nms(BOXES[0], SCORES[0], idxs, iou_threshold),
    "batched_nms_padded": lambda idxs=IDXS, iou_threshold=0.5, max_output=3, score_threshold=0.0: (
        ops.batched_nms_padded(BOXES, SCORES, idxs, iou_threshold, max_output, score_threshold)
    ),
    "soft_nms": lambda idxs=IDXS[0], **options: ops.soft_nms(BOXES[0], SCORES[0], idxs, **options),
    "soft_nms_padded": lambda idxs=IDXS, max_output=3, **options: ops.soft_nms_padded(
        BOXES, SCORES, idxs, max_output=max_output, **options
    ),
    "refine": lambda boxes=BOXES, logits=LOGITS, deltas=DELTAS, std=STD, image_sizes=SIZES, labels=None: ops.refine(
        boxes, logits, deltas, std, image_sizes, labels
    ),
    "detections": lambda valid=None, image_sizes=SIZES, **options: ops.detections(
        [LOGITS], DELTAS, BOXES, valid, image_sizes,
        **{"std": STD, "score_average": "logits", "score_threshold": 0.1, "iou_threshold": 0.5, "limit": 9, **options},
    ),
    "propose": lambda objectness=OBJECTNESS, strides=(4,), image_sizes=SIZES, anchors=ANCHORS, **options: ops.propose(
        objectness, MOVES, strides, image_sizes, anchors, **options
    ),
    "paste_masks": lambda image_size=(20, 30), threshold=0.5: ops.paste_masks(MASKS, BOXES[0], image_size, threshold),
    "encode_masks": lambda image_size=(20, 30), threshold=0.5: ops.encode_masks(MASKS, BOXES[0], image_size, threshold),
}  # fmt: skip
THRESHOLDS = {"nms", "batched_nms", "batched_nms_padded", "soft_nms", "soft_nms_padded", "detections", "propose"}
COUNTS = {
    "batched_nms_padded": ["max_output"], "soft_nms": ["max_output"], "soft_nms_padded": ["max_output"],
    "detections": ["limit"], "propose": ["limit", "per_level"],
}  # fmt: skip
COMPLEX = torch.zeros(2, 5, dtype=torch.complex64)
WRONG = [
    *(
        (name, {"iou_threshold": bad}, "iou_threshold must be a number")
        for name in sorted(THRESHOLDS)
        for bad in (NAN, None, "a")
    ),
    *((name, {count: 2.0}, f"{count} must be an integer, got 2.0") for name, some in COUNTS.items() for count in some),
    *((name, {count: -1}, f"{count} must not be negative") for name, some in COUNTS.items() for count in some),
    *(
        (name, {"threshold": bad}, "threshold must be a number")
        for name in ("paste_masks", "encode_masks")
        for bad in (None, NAN)
    ),
    *(
        (name, {"image_size": bad}, "image_size")
        for name in ("paste_masks", "encode_masks")
        for bad in ("12", (10.9, 20.2), (True, 5), ("a", "b"), 800, None, (-1, 5))
    ),
    ("nms", {"boxes": [[0, 0, 1, 1]]}, "boxes must be a tensor, got list"),
    ("nms", {"scores": None}, "scores must be a tensor, got NoneType"),
    ("batched_nms", {"idxs": None}, "idxs must be a tensor"),
    ("soft_nms", {"idxs": COMPLEX[0]}, "idxs must be integers, got torch.complex64"),
    ("soft_nms_padded", {"idxs": COMPLEX}, "idxs must be integers"),
    ("soft_nms", {"sigma": NAN}, "sigma must be a number, got nan"),
    ("soft_nms", {"min_score": None}, "min_score must be a number, got None"),
    ("refine", {"std": None}, "std must be 4 numbers, got None"),
    ("refine", {"std": (1, 1, 1)}, "std must be 4 numbers, got 3"),
    ("refine", {"std": (1, 1, 1, "a")}, "std must be a number, got 'a'"),
    ("refine", {"image_sizes": [[20, 30]] * 2}, "image_sizes must be a tensor, got list"),
    ("refine", {"image_sizes": SIZES.to(torch.complex64)}, "image_sizes must be integers"),
    ("refine", {"labels": COMPLEX}, "labels must be integers"),
    ("refine", {"labels": IDXS.bool()}, "labels must be integers"),
    ("refine", {"logits": None}, "logits must be a tensor"),
    ("detections", {"valid": [True]}, "valid must be a tensor"),
    ("detections", {"std": 1.0}, "std must be 4 numbers"),
    ("detections", {"score_threshold": None}, "score_threshold must be a number"),
    ("propose", {"strides": 4}, "strides must be one per level, 1 in all, got 4"),
    ("propose", {"strides": ((3, 3, 3),)}, "a level's stride must be 2 numbers, got 3"),
    ("propose", {"strides": ("88",)}, "a level's stride must be 2 numbers, got '88'"),
    ("propose", {"anchors": None}, "anchors must be given for every level"),
    ("propose", {"image_sizes": SIZES.numpy()}, "image_sizes must be a tensor, got ndarray"),
    ("propose", {"delta_std": 1.0}, "delta_std must be 4 numbers, got 1.0"),
    ("propose", {"min_size": None}, "min_size must be a number"),
    ("propose", {"objectness": [None]}, r"objectness[0] must be a tensor"),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: f"{WRONG[number][0]}-{number}")
def test_wrong_arguments_are_told(number, backend):
    name, options, said = WRONG[number]
    with ops.use_backend(backend), pytest.raises((ValueError, TypeError), match=re.escape(said)) as caught:
        CALLS[name](**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CALLS)
def test_right_ones_are_not(name):
    whole = {count: np.int64(3).item() for count in COUNTS.get(name, [])}
    thresholds = {"iou_threshold": np.float32(0.5)} if name in THRESHOLDS else {}
    assert CALLS[name](**whole, **thresholds) is not None
