"""NMS by class beside torchvision's, mmcv's, detectron2's and plain PyTorch."""

import pytest
import torchvision

from benchmarks import rivals
from benchmarks.cases import as_on_the_cpu, grid, number, plural, select
from htc_fast import ops

COUNTS, CLASSES = (100, 1000, 5000, 10_000, 20_000, 100_000, 1_000_000), (1, 5, 80, 1203)
USUAL = [(1000, 80), (5000, 80), (10_000, 80), (20_000, 80), (100_000, 80), (1000, 1), (5000, 1), (10_000, 1)]
QUICK = [(1000, 80), (10_000, 80), (100_000, 80), (1000, 1), (10_000, 1), (1_000_000, 80)]
BEST = [(1, 80_000, 80, 100)]  # images, boxes of each, classes, how many are kept: after the heads of one picture,
LEVELS = [(1, 1000, 1, 1000), (5, 5000, 5, 1000), (8, 1000, 80, 100)]  # and of a level, of five, of a batch
LOOP = 1000  # boxes up to which plain PyTorch's loop over a table of all pairs is waited for
SQUARE = 5e9  # pairs of one class that rivals are waited for: minutes


def same(ours, other, who):
    """torchvision moves classes apart by adding offsets, whose rounding may change a box in 10 000."""
    assert len(set(ours.tolist()) ^ set(other.tolist())) <= max(len(ours), 10) / 5000, f"differs from {who}"


def unless(pairs: float, rival):
    return rival if pairs <= SQUARE else rivals.Absent("grows with the square of the boxes: not waited for")


@pytest.mark.parametrize(("count", "classes"), grid(USUAL, COUNTS, CLASSES, quick=QUICK))
def bench_batched_nms(compare, draw, count, classes):
    given = draw.candidates(count, classes)
    kept = lambda *given: ops.batched_nms(*given, 0.5)  # noqa: E731
    ours = lambda: kept(*given)  # noqa: E731
    # Above 20 000 coordinates torchvision goes class by class.
    pairs = count * count / (classes if count > 5000 else 1)
    looped = rivals.plain(ours) if count <= LOOP else rivals.Absent("a loop over a table of all pairs: not waited for")
    calls = {
        "htc_fast": ours,
        "torchvision": unless(pairs, lambda: torchvision.ops.batched_nms(*given, 0.5)),
        "mmcv": unless(pairs, rivals.mmcv_nms(*given, iou_threshold=0.5)),
        "detectron2": unless(pairs, rivals.detectron2_nms(*given, 0.5)),
        "plain PyTorch": looped,
    }
    gigabytes, verify = sum(one.nbytes for one in (*given, ours())) / 1e9, as_on_the_cpu(kept, *given)
    case = f"{number(count)} boxes, {plural(classes, 'class', 'classes')}"
    compare(case, calls, same, op="batched_nms", gigabytes=gigabytes, verify=verify)


@pytest.mark.parametrize(("images", "count", "classes", "most"), select(BEST, [*BEST, *LEVELS]))
def bench_padded(compare, draw, images, count, classes, most):
    given = draw.candidates(count, classes, images)
    best = lambda *given: ops.batched_nms_padded(*given, 0.5, most)[0]  # noqa: E731
    each = lambda: [torchvision.ops.batched_nms(*one, 0.5)[:most] for one in zip(*given)]  # noqa: E731

    def check(ours, other, who):
        for mine, theirs in zip(ours, other):
            same(mine[mine >= 0], theirs[theirs >= 0], who)  # what is padded holds -1

    case = f"the best {most} of {number(count)} boxes, {plural(classes, 'class', 'classes')}"
    case += "" if images == 1 else f", {images} images"
    calls = {"htc_fast": lambda: best(*given), "torchvision": each}
    gigabytes, verify = sum(one.nbytes for one in given) / 1e9, as_on_the_cpu(best, *given)
    compare(case, calls, check, op="batched_nms_padded", gigabytes=gigabytes, verify=verify)
