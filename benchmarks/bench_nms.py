"""NMS by class beside torchvision's batched_nms, and soft-NMS beside its definition in plain PyTorch."""

import pytest
import torch
import torchvision

from htc_fast import ops
from tests.inputs import candidates

USUAL = [
    (1000, 80),
    (5000, 80),
    (10_000, 80),
    (20_000, 80),
    (100_000, 80),
    (1000, 1),
    (5000, 1),
    (10_000, 1),
    (20_000, 1),
]
FULL = [(100, 80), (100_000, 1), (5000, 5), (20_000, 1203), (1_000_000, 80)]


def same(ours, other, who):
    """torchvision moves classes apart by adding offsets, whose rounding may change a box in 10 000."""
    assert len(set(ours.tolist()) ^ set(other.tolist())) <= len(ours) / 5000, f"differs from {who}"


@pytest.mark.parametrize(("count", "classes"), USUAL + FULL)
def bench_batched_nms(compare, request, count, classes):
    if (count, classes) in FULL and not request.config.getoption("--full"):
        pytest.skip("only with --full")
    boxes, scores, idxs = candidates(count, classes)
    calls = {
        "htc_fast": lambda: ops.batched_nms(boxes, scores, idxs, 0.5),
        "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, idxs, 0.5),
    }
    if count == 1_000_000:
        # Its time grows with the square; an hour is not waited for.
        calls["torchvision"] = None
    classes_text = "1 class" if classes == 1 else f"{classes} classes"
    compare("nms", f"{count:,} boxes, {classes_text}".replace(",", " ", 1), calls, same)


def bench_padded(compare):
    boxes, scores, idxs = (one[None] for one in candidates(80_000, 80))
    calls = {"htc_fast": lambda: ops.batched_nms_padded(boxes, scores, idxs, 0.5, 100)[0][0],
             "torchvision": lambda: torchvision.ops.batched_nms(boxes[0], scores[0], idxs[0], 0.5)[:100]}  # fmt: skip
    compare("nms", "the best 100 of 80 000 boxes, 80 classes", calls, same)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def bench_soft_nms(compare, method):
    boxes, scores, idxs = candidates(5000, 80)

    def plain():
        with ops.use_backend("reference"):
            return ops.soft_nms(boxes, scores, idxs, method=method)[0]

    calls = {"htc_fast": lambda: ops.soft_nms(boxes, scores, idxs, method=method)[0], "plain PyTorch": plain}
    check = lambda ours, other, who: torch.testing.assert_close(ours, other)  # noqa: E731
    compare("nms", f"soft-NMS ({method}), 5 000 boxes, 80 classes", calls, check)
