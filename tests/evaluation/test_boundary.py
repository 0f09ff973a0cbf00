"""Boundary IoU: the smaller of the masks' and the boundaries' IoU, by bitmaps as its authors have it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from htc_fast.evaluation import evaluate_coco
from htc_fast.ops import _evaluation
from tests.evaluation.drawn import dataset


def bands(rle):
    """A mask and its boundary: what as many erosions as two hundredths of the diagonal take away, one by one."""
    mask = torch.tensor(coco_mask.decode(rle)).float()
    height, width = mask.shape
    inner = F.pad(mask[None, None], [1] * 4)
    for _ in range(max(1, round(0.02 * float(np.sqrt(height**2 + width**2))))):
        inner = -F.max_pool2d(-inner, 3, 1, 1)
    return mask.bool().numpy(), (mask - inner[0, 0, 1:-1, 1:-1]).bool().numpy()


def boundary_iou(found, truth, crowd):
    (a, edge_a), (b, edge_b) = bands(found), bands(truth)
    ious = [(x & y).sum() / max(1, x.sum() if crowd else (x | y).sum()) for x, y in ((a, b), (edge_a, edge_b))]
    return float(ious[0] if crowd else min(ious))


def texts(rles):
    strings = [one["counts"] if isinstance(one["counts"], bytes) else one["counts"].encode() for one in rles]
    packed = torch.frombuffer(bytearray(b"".join(strings)), dtype=torch.uint8)
    ends = torch.tensor([0, *map(len, strings)]).cumsum(0)
    return _evaluation.Texts(packed, ends, torch.tensor([one["size"] for one in rles]))


def matched(by, found, truth, crowd, thresholds):
    """[D] bits per threshold of D detections against one truth, each in a cell of its own."""
    count, cells = len(found), torch.arange(len(found) + 1)
    sides = []
    for rles in (found, [truth] * count):
        strings = texts(rles)
        pixels, boxes, faults = _evaluation.measure_masks(strings)
        assert not faults.any()
        sides.append(_evaluation.Cells(torch.arange(count), cells, boxes, pixels, pixels, *strings))
    flags = [torch.full((count,), int(one), dtype=torch.uint8) for one in (crowd, False, False)]
    ranges = torch.tensor([[0.0, 1e10]], dtype=torch.float64)
    rules = _evaluation.Rules(by, 0.02, *flags, ranges, torch.tensor(thresholds, dtype=torch.float64))
    return _evaluation.match_detections(rules, *sides)[0][:, 0].tolist()


def shapes(seed):
    """Masks of many forms: with holes, whole pictures, halves that go on over columns, single pixels, nothing."""
    draw = np.random.default_rng(seed)
    for number in range(30):
        height, width = (int(one) for one in draw.integers(3, 70, 2))
        mask = np.zeros((height, width), dtype=np.uint8)
        y, x = draw.integers(0, height), draw.integers(0, width)
        mask[y : y + draw.integers(1, height + 1), x : x + draw.integers(1, width + 1)] = 1
        if number % 3 == 0:
            mask |= draw.random(mask.shape) > 0.05
        if number % 5 == 0:
            mask[:] = 1
        if number % 7 == 0:
            mask.T.reshape(-1)[:] = 0
            mask[:, : width // 2] = 1
        other = mask.copy()
        other[draw.integers(0, height), draw.integers(0, width)] ^= 1
        other[: height // 4] = 0
        yield tuple(coco_mask.encode(np.asfortranarray(one)) for one in (mask, other))


@pytest.mark.parametrize("crowd", [False, True])
def test_ious_are_the_authors(crowd):
    """Each overlap lies between two thresholds a rounding apart."""
    checked = 0
    for found, truth in shapes(int(crowd)):
        wanted = boundary_iou(found, truth, crowd)
        if wanted > 0:
            bits = matched("boundaries", [found], truth, crowd, [wanted, np.nextafter(wanted, 2)])
            assert bits == [1 if wanted < 1 else 3], (found["size"], wanted)
            checked += 1
    assert checked > 15


def test_stricter_than_masks():
    truth, results = dataset(3, truths=8, guesses=20)
    scores = evaluate_coco(truth, results, kinds=("segm", "boundary"))
    assert 0 < scores.metrics["boundary_AP"] < scores.metrics["mask_AP"]
    assert set(scores.per_class["class 1"]) == {"mask_AP", "mask_AP50", "boundary_AP", "boundary_AP50"}
    perfect = [{**one, "score": 1.0} for one in truth["annotations"] if not one["iscrowd"]]
    assert evaluate_coco(truth, perfect, kinds="boundary").metrics["boundary_AP"] == pytest.approx(1)
