"""Soft-NMS beside mmcv's and its definition in plain PyTorch."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import full, number, plural
from htc_fast import ops

CASES = [(5000, 80), (1000, 80), *(full(*one) for one in [(100, 80), (1000, 1), (5000, 1), (5000, 5), (20_000, 80),
                                                          (20_000, 1203)])]  # fmt: skip


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(("count", "classes"), CASES)
def bench_soft_nms(compare, draw, count, classes, method):
    boxes, scores, idxs = draw.candidates(count, classes)
    ours = lambda: ops.soft_nms(boxes, scores, idxs, method=method)[0]  # noqa: E731
    options = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 1e-3, "method": method}
    # Sixty steps of the loop for each box that is left; minutes above this.
    slow = rivals.Absent("a loop of small operators: not waited for")
    calls = {
        "htc_fast": ours,
        "mmcv": rivals.mmcv_nms(boxes, scores, idxs, "soft_nms", **options),
        "plain PyTorch": rivals.plain(ours) if count <= 5000 else slow,
    }

    def check(mine, other, who):
        # mmcv moves classes apart by offsets, whose rounding may change a box in a thousand.
        differ = len(set(mine.tolist()) ^ set(other.tolist()))
        assert differ == 0 if who == "plain PyTorch" else differ <= len(mine) / 500, f"differs from {who}"
        assert who != "plain PyTorch" or torch.equal(mine, other), f"another order than {who}"

    size = sum(one.nbytes for one in (boxes, scores, idxs)) / 1e9
    compare(f"{method}, {number(count)} boxes, {plural(classes, 'class', 'classes')}", calls, check, op="soft_nms",
            gigabytes=size)  # fmt: skip
