"""NMS's CUDA kernels in the emulator against the reference (and, where that is too slow, against C++)."""

import pytest
import torch
from emulator import examples, kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc_fast import ops

# images, boxes, classes, wanted
CASES = {
    "one": (1, 1, 1, 3),
    "none": (2, 0, 1, 3),
    "chunk": (2, 64, 1, 64),
    "chunk_and_one": (1, 65, 3, 100),
    "several_chunks": (2, 300, 1, 300),
    "classes": (2, 200, 5, 60),
    "early_exit": (1, 500, 2, 7),
    "two_batches": (1, 2300, 1, 2300),
    "wide": (1, 900, 300, 900),
    "many_wanted": (3, 700, 4, 500),
}


def draw(images: int, count: int, classes: int, seed: int, spread: float = 60) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, count, 2, generator=generator) * spread
    size = torch.rand(images, count, 2, generator=generator) * 25 + 1
    scores = (torch.rand(images, count, generator=generator) * 99).round() / 99  # many ties
    idxs = torch.randint(-1, classes - 1, (images, count), generator=generator) * 1000003
    return torch.cat([centre - size / 2, centre + size / 2], dim=2), scores, idxs


def run(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou: float, most: int, least: float
) -> tuple[Tensor, Tensor]:
    indices = torch.full((len(boxes), most), -7)
    counts = torch.full((len(boxes),), -7, dtype=torch.int32)
    kernels().batched_nms(boxes, scores, idxs, iou, least, indices, counts)
    return indices, counts


def check(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou: float, most: int, least: float = -torch.inf) -> None:
    found, counts = run(boxes, scores, idxs, iou, most, least)
    alike = torch.zeros_like(scores, dtype=torch.int64) if idxs is None else idxs
    with ops.use_backend("reference" if boxes.shape[1] <= 300 else "cpp"):
        wanted, wanted_counts = ops.batched_nms_padded(boxes, scores, alike, iou, most, least)
    assert counts.tolist() == wanted_counts.tolist()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    images, count, classes, most = CASES[name]
    set_seed(0 if variant() == "plain" else 3)
    check(*draw(images, count, classes, 0, spread=400 if count > 1000 else 60), 0.5, most)


def test_without_classes():
    boxes, scores, _ = draw(2, 150, 1, 1)
    check(boxes, scores, None, 0.3, 50)


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.0, 0.7])
def test_thresholds(iou):
    boxes, scores, idxs = draw(1, 120, 2, 2)
    boxes[0, 5] = boxes[0, 6]
    check(boxes, scores, idxs, iou, 120, 0.2)


def test_strange_boxes_and_scores():
    boxes, scores, idxs = draw(2, 100, 2, 3)
    strange = [[float("nan"), 0, 1, 1], [0, 0, float("inf"), 1], [5, 5, 1, 1], [3, 3, 3, 3], [-1e20, -1e20, 1e20, 1e20]]
    boxes[:, 10:15] = torch.tensor(strange)
    scores[:, 20], scores[:, 21], scores[:, 22], scores[:, 23] = float("nan"), float("inf"), -0.0, 0.0
    check(boxes, scores, idxs, 0.5, 100)
    scores[:] = -torch.inf
    found, counts = run(boxes, scores, idxs, 0.5, 5, 0.0)
    assert counts.tolist() == [0, 0] and (found == -1).all()


def test_equal_scores_of_more_than_a_batch():
    """One score for all: the bound must be found among the indices."""
    boxes, scores, idxs = draw(1, 2500, 1, 4, spread=2000)
    check(boxes, torch.full_like(scores, 0.25), idxs, 0.5, 40)


def test_order_of_threads_does_not_matter():
    problem = draw(2, 260, 4, 5)
    results = []
    for seed in (0, 1, 2):
        set_seed(seed)
        results.append(run(*problem, 0.5, 100, 0.1)[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@settings(max_examples=examples(120), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 400), st.integers(1, 3), st.integers(1, 9), st.integers(0, 400), st.floats(0, 1), st.integers(0, 999)
)
def test_drawn(count, images, classes, most, iou, seed):
    set_seed(seed % 4)
    check(*draw(images, count, classes, seed), iou, most, 0.3)
