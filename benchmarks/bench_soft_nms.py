"""Soft-NMS beside mmcv's and its definition in plain PyTorch."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import as_on_the_cpu, number, plural, select
from htc_fast import ops

USUAL = [(5000, 80), (1000, 80)]
REST = [(100, 80), (1000, 1), (5000, 1), (5000, 5), (20_000, 80), (20_000, 1203)]
SLOW = "a loop of small operators: not waited for"  # sixty steps for each box that is left; minutes above LOOP
LOOP = 5000
BATCHES = [(8, 1000, 80, 100), (2, 5000, 80, 300)]  # images, boxes of each, classes, how many are kept: after the heads


def words(count: int, classes: int) -> str:
    return f"{number(count)} boxes, {plural(classes, 'class', 'classes')}"


def check(mine, other, who):
    # mmcv moves classes apart by offsets, whose rounding may change a box in a thousand.
    differ = len(set(mine.tolist()) ^ set(other.tolist()))
    assert differ == 0 if who == "plain PyTorch" else differ <= len(mine) / 500, f"differs from {who}"
    assert who != "plain PyTorch" or torch.equal(mine, other), f"another order than {who}"


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(("count", "classes"), select(USUAL, rest=REST))
def bench_soft_nms(compare, draw, count, classes, method):
    given = draw.candidates(count, classes)
    kept = lambda *given: ops.soft_nms(*given, method=method)[0]  # noqa: E731
    ours = lambda: kept(*given)  # noqa: E731
    options = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 1e-3, "method": method}
    calls = {
        "htc_fast": ours,
        "mmcv": rivals.mmcv_nms(*given, "soft_nms", **options),
        "plain PyTorch": rivals.plain(ours) if count <= LOOP else rivals.Absent(SLOW),
    }
    gigabytes = sum(one.nbytes for one in given) / 1e9
    compare(f"{method}, {words(count, classes)}", calls, check, op="soft_nms", gigabytes=gigabytes)


@pytest.mark.parametrize(("count", "classes", "most"), select([], [(1000, 80, 100), (5000, 80, 100), (5000, 1, 5000)]))
def bench_best(compare, draw, count, classes, most):
    given = draw.candidates(count, classes)
    best = lambda *given: ops.soft_nms(*given, max_output=most)[0]  # noqa: E731
    calls = {"htc_fast": lambda: best(*given), "plain PyTorch": rivals.Absent(SLOW)}
    gigabytes, verify = sum(one.nbytes for one in given) / 1e9, as_on_the_cpu(best, *given)
    case = f"linear, the best {most} of {words(count, classes)}"
    compare(case, calls, check, op="soft_nms", gigabytes=gigabytes, verify=verify)


@pytest.mark.parametrize(("images", "count", "classes", "most"), select(BATCHES[:1], BATCHES[:1], BATCHES))
def bench_padded(compare, draw, images, count, classes, most):
    given = draw.candidates(count, classes, images)
    best = lambda *given: ops.soft_nms_padded(*given, max_output=most)[0]  # noqa: E731
    ours = lambda: best(*given)  # noqa: E731
    options = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 1e-3, "method": "linear"}
    each = [rivals.mmcv_nms(*one, "soft_nms", **options) for one in zip(*given)]
    absent = [one for one in each if isinstance(one, rivals.Absent)]
    calls = {
        "htc_fast": ours,
        "mmcv": absent[0] if absent else lambda: [one()[:most] for one in each],
        "plain PyTorch": rivals.plain(ours),
    }

    def check_all(mine, other, who):
        for one, another in zip(mine, other, strict=True):
            check(one[one >= 0], another[another >= 0], who)

    gigabytes, verify = sum(one.nbytes for one in given) / 1e9, as_on_the_cpu(best, *given)
    case = f"linear, the best {most} of {words(count, classes)}, {images} images"
    compare(case, calls, check_all, op="soft_nms_padded", gigabytes=gigabytes, verify=verify)
