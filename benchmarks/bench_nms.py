"""NMS by class beside torchvision's, mmcv's, detectron2's and plain PyTorch."""

import pytest
import torchvision

from benchmarks import rivals
from benchmarks.cases import full, number, plural
from htc_fast import ops

USUAL = [(1000, 80), (5000, 80), (10_000, 80), (20_000, 80), (100_000, 80), (1000, 1), (5000, 1), (10_000, 1)]
REST = [(count, classes) for count in (100, 1000, 5000, 10_000, 20_000, 100_000, 1_000_000) for classes in
        (1, 5, 80, 1203) if (count, classes) not in USUAL]  # fmt: skip
LOOP = 1000  # boxes up to which plain PyTorch's loop over a table of all pairs is waited for
SQUARE = 5e9  # pairs of one class that rivals are waited for: minutes


def same(ours, other, who):
    """torchvision moves classes apart by adding offsets, whose rounding may change a box in 10 000."""
    assert len(set(ours.tolist()) ^ set(other.tolist())) <= max(len(ours), 10) / 5000, f"differs from {who}"


def unless(pairs: float, rival):
    return rival if pairs <= SQUARE else rivals.Absent("grows with the square of the boxes: not waited for")


@pytest.mark.parametrize(("count", "classes"), [*USUAL, *(full(*one) for one in REST)])
def bench_batched_nms(compare, draw, count, classes):
    boxes, scores, idxs = draw.candidates(count, classes)
    ours = lambda: ops.batched_nms(boxes, scores, idxs, 0.5)  # noqa: E731
    # Above 20 000 coordinates torchvision goes class by class.
    pairs = count * count / (classes if count > 5000 else 1)
    calls = {
        "htc_fast": ours,
        "torchvision": unless(pairs, lambda: torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)),
        "mmcv": unless(pairs, rivals.mmcv_nms(boxes, scores, idxs, iou_threshold=0.5)),
        "detectron2": unless(pairs, rivals.detectron2_nms(boxes, scores, idxs, 0.5)),
        "plain PyTorch": rivals.plain(ours)
        if count <= LOOP
        else rivals.Absent("a loop over a table of all pairs: not waited for"),
    }
    size = sum(one.nbytes for one in (boxes, scores, idxs, ours())) / 1e9
    compare(f"{number(count)} boxes, {plural(classes, 'class', 'classes')}", calls, same, op="batched_nms",
            gigabytes=size)  # fmt: skip


def bench_padded(compare, draw):
    boxes, scores, idxs = (one[None] for one in draw.candidates(80_000, 80))
    calls = {"htc_fast": lambda: ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)[0][0],
             "torchvision": lambda: torchvision.ops.batched_nms(boxes[0], scores[0], idxs[0], 0.5)[:100]}  # fmt: skip

    def check(ours, other, who):
        same(ours[ours >= 0], other, who)

    size = sum(one.nbytes for one in (boxes, scores, idxs)) / 1e9
    compare("the best 100 of 80 000 boxes, 80 classes", calls, check, op="batched_nms_padded", gigabytes=size)
