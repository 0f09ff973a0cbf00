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
    ("refine", {"std": None}, "std must be a list or a tuple, got NoneType"),
    ("refine", {"std": (1, 1, 1)}, "std must be 4 numbers, got 3"),
    ("refine", {"std": (1, 1, 1, "a")}, "std must be a number, got 'a'"),
    ("refine", {"image_sizes": [[20, 30]] * 2}, "image_sizes must be a tensor, got list"),
    ("refine", {"image_sizes": SIZES.to(torch.complex64)}, "image_sizes must be integers"),
    ("refine", {"labels": COMPLEX}, "labels must be integers"),
    ("refine", {"labels": IDXS.bool()}, "labels must be integers"),
    ("refine", {"logits": None}, "logits must be a tensor"),
    ("detections", {"valid": [True]}, "valid must be a tensor"),
    ("detections", {"std": 1.0}, "std must be a list or a tuple, got float"),
    ("detections", {"limit": 2**70}, "limit must be below 2^31"),
    ("detections", {"score_threshold": None}, "score_threshold must be a number"),
    ("propose", {"strides": 4}, "strides must be a list or a tuple, got int"),
    ("propose", {"strides": ((3, 3, 3),)}, "a level's stride must be 2 numbers, got 3"),
    ("propose", {"strides": ("88",)}, "a level's stride must be a list or a tuple, got str"),
    ("propose", {"anchors": None}, "anchors must be a list or a tuple, got NoneType"),
    ("propose", {"image_sizes": SIZES.numpy()}, "image_sizes must be a tensor, got ndarray"),
    ("propose", {"delta_std": 1.0}, "delta_std must be a list or a tuple, got float"),
    ("propose", {"min_size": None}, "min_size must be a number"),
    ("propose", {"objectness": [None]}, "objectness[0] must be a tensor"),
    ("propose", {"objectness": None}, "objectness must be a list or a tuple, got NoneType"),
    ("propose", {"anchors": [torch.rand(3, 4)] * 40}, "anchors must be given for every level, 1 in all, got 40"),
    ("nms", {"iou_threshold": torch.rand(2)}, "iou_threshold must be a number"),
    ("nms", {"iou_threshold": np.complex64(1 + 1j)}, "iou_threshold must be a number"),
    ("soft_nms", {"max_output": True}, "max_output must be an integer, got True"),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: f"{WRONG[number][0]}-{number}")
def test_wrong_arguments_are_told(number, backend):
    name, options, said = WRONG[number]
    with ops.use_backend(backend), pytest.raises((ValueError, TypeError), match=re.escape(said)) as caught:
        CALLS[name](**options)
    assert "\n" not in str(caught.value)


FOUR = np.array(STD)
RIGHT = [
    *(
        (name, {count: kind(3)}, {count: 3})
        for name, some in COUNTS.items()
        for count in some
        for kind in (np.int64, torch.tensor)
    ),
    *((name, {"iou_threshold": np.float32(0.5)}, {"iou_threshold": 0.5}) for name in sorted(THRESHOLDS)),
    *(("refine", {"std": kind}, {"std": STD}) for kind in (FOUR, torch.tensor(FOUR), list(FOUR))),
    ("detections", {"std": FOUR}, {}),
    ("propose", {"strides": np.array([4])}, {}),
    ("propose", {"strides": [(4, np.float32(4))], "delta_std": np.ones(4)}, {}),
    ("propose", {"anchors": np.array(ANCHORS)}, {}),
    ("propose", {"anchors": torch.tensor(ANCHORS)}, {}),
    ("paste_masks", {"image_size": np.array([20, 30])}, {}),
    ("paste_masks", {"image_size": (20.0, np.int32(30))}, {}),
]


def tensors(found) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("number", range(len(RIGHT)), ids=lambda number: f"{RIGHT[number][0]}-{number}")
def test_other_libraries_numbers_are_numbers(number):
    name, options, plain = RIGHT[number]
    found, wanted = tensors(CALLS[name](**options)), tensors(CALLS[name](**plain))
    assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def twice(call, *numbers):
    """What a compiled program gives for each of the numbers, of which the second makes them symbols."""
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    return [(compiled(number), call(number)) for number in numbers]


def test_numbers_of_a_compiled_program_may_change():
    picture = lambda one: ops.paste_masks(MASKS, BOXES[0] * 20, one.shape[-2:])  # noqa: E731
    threshold = lambda least: ops.batched_nms_padded(BOXES, SCORES, IDXS, least, 4)[0]  # noqa: E731
    pictures = twice(picture, *(torch.rand(3, side, side + 10) for side in (20, 24, 28)))
    for found, wanted in [*pictures, *twice(threshold, 0.5, 0.6, 0.1)]:
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["refine", "detections", "propose", "paste_masks", "batched_nms_padded"])
def test_compiles_with_dynamic_numbers(name):
    compiled = torch.compile(lambda: CALLS[name](), backend="aot_eager", fullgraph=True, dynamic=True)
    assert all(map(torch.equal, tensors(compiled()), tensors(CALLS[name]())))
