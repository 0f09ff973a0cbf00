"""mask_nms, backend x named case: what greedy suppression over pycocotools' IoU keeps, of masks and of run lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import CPP, CUDA, ON_CPU, REFERENCE, cases, columns
from tests.ops.pair_cases import CASES, coco_iou, disc, draw, rles_of

OPERATOR = "mask_nms"
NAN = float("nan")


def greedy(masks, scores, threshold, idxs=None, metric="iou") -> list[int]:
    """The definition, mask by mask."""
    rles, areas, kept = rles_of(masks), masks.sum(dim=(1, 2)).tolist(), []
    overlaps = coco_iou(rles, rles)
    if metric == "smaller":  # beside crowds it is what both share over the first's area
        shared = coco_iou(rles, rles, [1] * len(rles))
        overlaps = torch.tensor([[max(shared[i, j], shared[j, i]) for j in range(len(rles))] for i in range(len(rles))])
    assert len(areas) == len(scores)
    for k in sorted((k for k in range(len(rles)) if scores[k] == scores[k]), key=lambda k: (-float(scores[k]), k)):
        alike = [i for i in kept if idxs is None or idxs[i] == idxs[k]]
        if all(overlaps[i, k] <= threshold for i in alike):
            kept.append(k)
    return kept


def discs(count: int, seed: int = 0, size: tuple[int, int] = (60, 80)) -> torch.Tensor:
    draws = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.stack([disc(size, y * size[0], x * size[1], 4 + 12 * r) for y, x, r in draws])


def scored(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, with ties, and classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator).mul(20).round() / 20, torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("metric", ["iou", "smaller"])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("name, column", cases(OPERATOR, [one for one in CASES if one != "many"], ON_CPU))
def test_named(name, column, by_class, metric):
    masks = draw(CASES[name].a, CASES[name].size, CASES[name].kind)
    scores, idxs = scored(len(masks))
    idxs = idxs if by_class else None
    for threshold in (0.0, 0.3):
        wanted = greedy(masks, scores, threshold, idxs, metric)
        for given_masks in (masks, rles_of(masks)):
            found = column.call(OPERATOR, given_masks, scores, threshold, idxs, metric)
            assert found.dtype == torch.int64 and found.tolist() == wanted


@pytest.mark.parametrize("column", columns("mask_iou", (*ON_CPU, CUDA)))
def test_discs(column):
    masks = discs(120)
    scores, idxs = scored(120)
    for threshold, classes in ((0.2, None), (0.5, idxs), (0.9, None)):
        wanted = greedy(masks, scores, threshold, classes)
        assert 5 < len(wanted) < 120 and column.call(OPERATOR, masks, scores, threshold, classes).tolist() == wanted
        assert column.call(OPERATOR, rles_of(masks), scores, threshold, classes).tolist() == wanted


@given(
    st.integers(0, 12), st.integers(0, 2**20), st.floats(-0.1, 1.1), st.booleans(), st.sampled_from(["iou", "smaller"])
)
@settings(max_examples=80, deadline=None)
def test_drawn(count, seed, threshold, by_class, metric):
    masks = draw(count, (11, 13), seed=seed)
    scores, idxs = scored(count, seed)
    idxs = idxs if by_class else None
    wanted = CPP.call(OPERATOR, masks, scores, threshold, idxs, metric)
    for column in (CPP, REFERENCE):
        assert torch.equal(column.call(OPERATOR, rles_of(masks), scores, threshold, idxs, metric), wanted)
    if threshold >= 0:
        assert wanted.tolist() == greedy(masks, scores, threshold, idxs, metric)


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
def test_ties_and_strange_scores(column):
    masks = torch.ones(6, 3, 4, dtype=torch.bool)
    scores = torch.tensor([NAN, 0.5, 0.5, float("inf"), -float("inf"), NAN])
    for given_masks in (masks, rles_of(masks)):
        assert column.call(OPERATOR, given_masks, scores, 0.5).tolist() == [3]
        assert column.call(OPERATOR, given_masks, scores, 1.0).tolist() == [3, 1, 2, 4]
        assert column.call(OPERATOR, given_masks, scores, 0.5, torch.arange(6)).tolist() == [3, 1, 2, 4]
        assert column.call(OPERATOR, given_masks, scores * NAN, 0.5).tolist() == []
        assert column.call(OPERATOR, given_masks, scores, -1.0).tolist() == [3]


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
def test_a_part_is_suppressed_by_its_whole(column):
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :, :], masks[1, 3:6, 3:6] = True, True
    scores = torch.tensor([0.5, 0.9])
    assert column.call(OPERATOR, rles_of(masks), scores, 0.5).tolist() == [1, 0]
    assert column.call(OPERATOR, rles_of(masks), scores, 0.5, metric="smaller").tolist() == [1]


def test_ten_thousand_detections():
    """No K x K matrix: that of 10 000 would be 800 MB."""
    side, grid = 20_000, 100
    rles = []
    for index in range(10_000):
        start = index % grid * 190 * side + index // grid * 190
        counts = [start, *[100, side - 100] * 4, 100]
        rles.append({"size": [side, side], "counts": [*counts, side * side - sum(counts)]})
    scores = torch.arange(20_000).flip(0).double()
    kept = ops.mask_nms([*rles, *rles[:500]], scores[:10_500], 0.5)
    assert kept.tolist() == list(range(10_000))


def test_numpy_lists_and_types():
    masks = discs(30)
    scores, idxs = scored(30)
    wanted = ops.mask_nms(masks, scores, 0.4, idxs).tolist()
    found = ops.mask_nms(masks.numpy(), scores.numpy(), 0.4, idxs.numpy())
    assert isinstance(found, np.ndarray) and found.tolist() == wanted
    assert isinstance(ops.mask_nms(rles_of(masks), scores.numpy(), 0.4), np.ndarray)
    assert ops.mask_nms(rles_of(masks), scores.tolist(), 0.4, idxs.tolist()).tolist() == wanted
    assert ops.mask_nms(masks, scores.half(), 0.4, idxs.int()).tolist() == greedy(masks, scores.half(), 0.4, idxs)
    assert ops.mask_nms(masks.mT, scores.double().requires_grad_(), 0.4, idxs).tolist() == wanted
    near = [0.1234567890123, 0.1234567890124]
    assert ops.mask_nms(torch.ones(2, 2, 2, dtype=torch.bool), near, 0.5).tolist() == [1]


def test_opcheck():
    runs = _rle.read("masks", rles_of(discs(8)))
    torch.library.opcheck(torch.ops.htc_fast.mask_nms.default, (*runs, torch.arange(8), None, False, 0.5))


MASKS, RLE = torch.zeros(2, 4, 5, dtype=torch.bool), {"size": [4, 5], "counts": [20]}
WRONG = [
    ((MASKS, torch.rand(3), 0.5), ValueError, r"scores must be \[2\], one for each of masks, got \[3\]"),
    ((MASKS, torch.ones(2).long(), 0.5), TypeError, "scores must be floating point"),
    ((MASKS, torch.rand(2), "abc"), TypeError, "iou_threshold must be a number"),
    ((MASKS, torch.rand(2), NAN), ValueError, "iou_threshold must be a number"),
    ((MASKS, torch.rand(2), 0.5, torch.rand(2)), TypeError, "idxs must be integers"),
    ((MASKS, torch.rand(2), 0.5, [1]), ValueError, r"idxs must be \[2\]"),
    ((MASKS, torch.rand(2), 0.5, None, "union"), ValueError, "metric must be 'iou' or 'smaller', got 'union'"),
    (([RLE, {"size": [5, 4], "counts": [20]}], [1.0, 2.0], 0.5), ValueError, "must be of one size"),
    ((MASKS.double(), torch.rand(2), 0.5), TypeError, "masks must be bool"),
]


@pytest.mark.parametrize("given, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(given, error, said):
    with pytest.raises(error, match=said):
        ops.mask_nms(*given)
