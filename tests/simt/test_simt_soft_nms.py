"""Soft-NMS's CUDA kernels in the emulator against C++ and the reference."""

import pytest
import torch
from emulator import examples, kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_simt_nms import draw
from torch import Tensor

from htc_fast import ops

# boxes, classes, wanted
CASES = {
    "none": (0, 1, 5),
    "nothing_wanted": (20, 2, 0),
    "one": (1, 1, 3),
    "one_class": (150, 1, 150),
    "classes": (400, 7, 400),
    "more_than_threads": (700, 1, 60),
    "many_classes": (600, 300, 600),
    "early_end": (300, 3, 11),
}


def check(boxes: Tensor, scores: Tensor, idxs: Tensor, method: str, most: int, least: float = 1e-3) -> None:
    indices, decayed = torch.full((min(most, len(boxes)),), -7), torch.full((min(most, len(boxes)),), -7.0)
    count = torch.full((1,), -7, dtype=torch.int32)
    kernels().soft_nms(boxes, scores, idxs, method == "gaussian", 0.3, 0.5, least, indices, decayed, count)
    wanted, wanted_scores = ops.soft_nms(boxes, scores, idxs, method=method, min_score=least, max_output=most)
    kept = count.item()
    assert kept == len(wanted)
    torch.testing.assert_close(decayed[:kept], wanted_scores, rtol=1e-5, atol=1e-7)
    # Scores that differ by rounding alone may change places.
    moved = (indices[:kept] != wanted).nonzero().flatten()
    assert sorted(indices[:kept].tolist()) == sorted(wanted.tolist()) and len(moved) <= kept // 50 + 2
    assert (indices[kept:] == -1).all()


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("name", CASES)
def test_named(name, method):
    count, classes, most = CASES[name]
    set_seed(0 if variant() == "plain" else 3)
    boxes, scores, idxs = (one[0] for one in draw(1, count, classes, 0, spread=150))
    check(boxes, scores * 0.9 + torch.linspace(0, 0.05, count), idxs, method, most)


def test_what_is_not_finite_never_stays():
    boxes, scores, idxs = (one[0] for one in draw(1, 60, 2, 1))
    boxes[3, 1], boxes[9, 2], scores[5], scores[7] = torch.nan, torch.inf, torch.nan, torch.inf
    check(boxes, scores, idxs, "linear", 60)


@settings(max_examples=examples(60), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 200), st.sampled_from(["linear", "gaussian"]),
       st.sampled_from([1e-3, 0.2, -1.0]), st.integers(0, 9999))  # fmt: skip
def test_drawn(count, classes, most, method, least, seed):
    set_seed(seed)
    boxes, scores, idxs = (one[0] for one in draw(1, count, classes, seed, spread=100))
    # No ties: rounding would decide between them.
    check(boxes, scores + torch.linspace(0, 0.005, count), idxs, method, most, least)
