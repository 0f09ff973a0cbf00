"""merge_tiles: pieces of tiles become objects, as the definition on whole masks joins them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import CPP, ON_CPU, REFERENCE, columns
from tests.ops.pair_cases import disc, draw, rles_of

OPERATOR = "merge_tiles"
NAN = float("nan")
COLUMNS = pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))


def definition(masks, scores, idxs, threshold, metric):
    """Groups of whole masks: the best grows until nothing joins."""
    groups, merged = [-1] * len(masks), []
    order = sorted((k for k in range(len(masks)) if scores[k] == scores[k]), key=lambda k: (-float(scores[k]), k))
    for leader in order:
        if groups[leader] >= 0:
            continue
        grown, members, joined = masks[leader].clone(), [leader], True
        while joined:
            joined = False
            for k in order:
                if groups[k] >= 0 or k in members or (idxs is not None and idxs[k] != idxs[leader]):
                    continue
                shared, union = int((grown & masks[k]).sum()), int((grown | masks[k]).sum())
                whole = union if metric == "iou" else min(int(grown.sum()), int(masks[k].sum()))
                if (shared / whole if shared else 0.0) > threshold:
                    grown, joined = grown | masks[k], True
                    members.append(k)
        for k in members:
            groups[k] = len(merged)
        merged.append(grown)
    return groups, merged


def check(column, masks, scores, idxs, threshold, metric):
    groups, merged = definition(masks, scores, idxs, threshold, metric)
    found = column.call(OPERATOR, rles_of(masks), scores, idxs, threshold=threshold, metric=metric)
    assert found.groups.tolist() == groups
    assert [one["counts"] for one in found.rles] == [one["counts"] for one in rles_of(torch.stack(merged))]
    leaders = [max((k for k in range(len(groups)) if groups[k] == g), key=lambda k: (float(scores[k]), -k))
               for g in range(len(merged))]  # fmt: skip
    assert torch.equal(found.scores, scores[leaders])
    assert (found.idxs is None) if idxs is None else torch.equal(found.idxs, idxs[leaders])
    return found


def tiled(whole: torch.Tensor, tile: int, step: int) -> torch.Tensor:
    """Every object's pieces in overlapping tiles, each in the picture's place."""
    pieces = []
    for mask in whole:
        for y in range(0, mask.shape[0] - tile + 1, step):
            for x in range(0, mask.shape[1] - tile + 1, step):
                piece = torch.zeros_like(mask)
                piece[y : y + tile, x : x + tile] = mask[y : y + tile, x : x + tile]
                pieces += [piece] if piece.any() else []
    return torch.stack(pieces)


@COLUMNS
def test_objects_come_back_from_tiles(column):
    """Three discs, nine tiles of 60 that overlap by 30: one object each, whatever order their pieces have."""
    whole = torch.stack([disc((120, 120), 60, 40, 18), disc((120, 120), 40, 90, 17), disc((120, 120), 95, 95, 15)])
    pieces = tiled(whole, 60, 30)
    assert len(pieces) > 9
    for seed in range(3):
        scores = torch.rand(len(pieces), generator=torch.Generator().manual_seed(seed))
        found = check(column, pieces, scores, None, 0.3, "smaller")
        assert sorted(one["counts"] for one in found.rles) == sorted(one["counts"] for one in rles_of(whole))


@COLUMNS
@pytest.mark.parametrize("metric", ["iou", "smaller"])
@pytest.mark.parametrize("by_class", [False, True])
def test_mixed_masks(column, by_class, metric):
    masks = draw(20, (30, 40))
    scores = torch.rand(20, generator=torch.Generator().manual_seed(0)).mul(8).round() / 8
    scores[[3, 11]] = NAN
    for threshold in (0.0, 0.2, 0.6):
        found = check(column, masks, scores, torch.arange(20) % 3 if by_class else None, threshold, metric)
        assert found.groups[3] == -1 and len(found.rles) < 19


@given(st.integers(1, 9), st.integers(0, 2**20), st.floats(0, 1), st.sampled_from(["iou", "smaller"]))
@settings(max_examples=60, deadline=None)
def test_drawn(count, seed, threshold, metric):
    masks, generator = draw(count, (9, 14), seed=seed), torch.Generator().manual_seed(seed)
    scores, idxs = torch.rand(count, generator=generator), torch.randint(2, (count,), generator=generator)
    check(CPP, masks, scores, idxs, threshold, metric)
    check(REFERENCE, masks, scores, idxs, threshold, metric)


@COLUMNS
def test_a_chain_is_one(column):
    """Pieces that only meet through others: the second round reaches what the first passed over."""
    masks = torch.zeros(4, 4, 40, dtype=torch.bool)
    for k, x in enumerate((0, 24, 8, 16)):
        masks[k, :, x : x + 12] = True
    found = check(column, masks, torch.tensor([0.9, 0.8, 0.7, 0.6]), None, 0.3, "smaller")
    assert found.groups.tolist() == [0, 0, 0, 0]
    assert check(column, masks, torch.tensor([0.9, 0.8, 0.7, 0.6]), None, 0.5, "iou").groups.tolist() == [0, 1, 2, 3]


@COLUMNS
def test_none_and_nothing(column):
    found = column.call(OPERATOR, [], [], [])
    assert found.rles == [] and found.scores.tolist() == found.idxs.tolist() == found.groups.tolist() == []
    found = column.call(OPERATOR, rles_of(torch.zeros(2, 3, 4, dtype=torch.bool)), [0.1, NAN])
    assert found.groups.tolist() == [0, -1] and coco_mask.area(found.rles[0]) == 0 and found.idxs is None
    assert column.call(OPERATOR, rles_of(torch.zeros(1, 3, 4)), [NAN]).rles == []


def test_a_large_picture():
    """2 500 tiles of 20 000 x 20 000 pixels and a roof over every seam: no mask is ever built."""
    side, rles = 20_000, []
    for index in range(2_500):
        x, y = index % 50 * 400, index // 50 * 400
        for part in (0, 60):  # two halves of a roof, that share 40 columns
            counts = [(x + part) * side + y, *[80, side - 80] * 99, 80]
            rles.append({"size": [side, side], "counts": [*counts, side * side - sum(counts)]})
    scores = np.linspace(0.9, 0.1, 5_000)
    found = ops.merge_tiles(rles, scores, threshold=0.3)
    assert isinstance(found.groups, np.ndarray) and len(found.rles) == 2_500
    assert (found.groups.reshape(-1, 2) == np.arange(2_500)[:, None]).all()
    assert set(ops.mask_iou(found.rles[:3], found.rles[:3]).diagonal().tolist()) == {1.0}
    assert coco_mask.area(found.rles[0]) == 160 * 80 and np.array_equal(found.scores, scores[::2])


def test_numpy_and_lists():
    masks = draw(10, (20, 20))
    scores, idxs = torch.rand(10, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
    wanted = ops.merge_tiles(rles_of(masks), scores, idxs, threshold=0.2)
    found = ops.merge_tiles(rles_of(masks), scores.numpy(), idxs.numpy(), threshold=0.2)
    assert all(isinstance(one, np.ndarray) for one in found[1:]) and found.rles == wanted.rles
    assert np.array_equal(found.groups, wanted.groups) and np.array_equal(found.idxs, wanted.idxs)
    assert ops.merge_tiles(rles_of(masks), scores.tolist(), idxs.tolist(), threshold=0.2).rles == wanted.rles


def test_opcheck():
    runs = _rle.read("masks", rles_of(draw(8, (20, 20))))
    given = *runs, torch.arange(8), torch.zeros(8, dtype=torch.int64), True, 0.5
    torch.library.opcheck(torch.ops.htc_fast.merge_tiles.default, given)


RLE = {"size": [4, 5], "counts": [20]}
WRONG = [
    (([RLE], [1.0, 2.0]), {}, ValueError, r"scores must be \[1\], one for each of masks, got \[2\]"),
    (([RLE], [1.0], [0.5]), {}, TypeError, "idxs must be integers"),
    (([RLE], [1.0]), {"metric": "ios"}, ValueError, "metric must be 'iou' or 'smaller', got 'ios'"),
    (([RLE], [1.0]), {"threshold": NAN}, ValueError, "threshold must be a number"),
    (([RLE, {"size": [5, 4], "counts": [20]}], [1.0, 2.0]), {}, ValueError, r"rles\[0\] is \[4, 5\] and rles\[1\] \[5"),
    ((torch.zeros(1, 4, 5, dtype=torch.bool), [1.0]), {}, TypeError, r"rles\[0\] must be a COCO RLE dict"),
]


@pytest.mark.parametrize("given, options, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(given, options, error, said):
    with pytest.raises(error, match=said):
        ops.merge_tiles(*given, **options)
