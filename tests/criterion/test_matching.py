"""Assignment by IoU, against the rule written as loops."""

import pytest
import torch

from htc_fast.criterion.matching import IGNORED, NEGATIVE, anchors_inside, match


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def match_by_loops(boxes, valid, gt_boxes, positive, negative, low_quality):
    overlaps = [[iou(box, gt) if ok else -1.0 for gt in gt_boxes] for box, ok in zip(boxes, valid)]
    assigned = []
    for row, ok in zip(overlaps, valid):
        best = max(row, default=-1.0)
        kind = row.index(best) if best >= positive else NEGATIVE if best < negative else IGNORED
        assigned.append(kind if ok else IGNORED)
    for g in range(len(gt_boxes)):
        top = max(row[g] for row in overlaps)
        for r, row in enumerate(overlaps):
            if low_quality is not None and top >= low_quality and row[g] == top:
                assigned[r] = g
    return assigned


def random_boxes(generator, count, size=64):
    # A coarse grid makes exact ties of IoU frequent.
    corner = torch.randint(0, size // 8, (count, 2), generator=generator) * 8
    extent = torch.randint(1, 4, (count, 2), generator=generator) * 8
    return torch.cat([corner, corner + extent], dim=1).double()


@pytest.mark.parametrize("low_quality", [None, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_loops(seed, low_quality):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(generator, 60) for _ in range(2)])
    gt = torch.stack([random_boxes(generator, 8) for _ in range(2)])
    valid = torch.rand(2, 60, generator=generator) > 0.1
    counts = (5, 8)
    gt_valid = torch.arange(8)[None] < torch.tensor(counts)[:, None]
    found = match(boxes, valid, gt, gt_valid, 0.7, 0.3, low_quality)
    for n, count in enumerate(counts):
        expected = match_by_loops(boxes[n].tolist(), valid[n].tolist(), gt[n, :count].tolist(), 0.7, 0.3, low_quality)
        assert found[n].tolist() == expected


def test_later_ground_truth_overwrites():
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    gt = torch.tensor([[[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 8.0]]])
    everywhere = torch.ones(1, 1, dtype=torch.bool), gt, torch.ones(1, 2, dtype=torch.bool)
    assert match(box, *everywhere, 0.7, 0.3, None).item() == 0
    assert match(box, *everywhere, 0.7, 0.3, 0.3).item() == 1


@pytest.mark.parametrize("gt_count", [0, 8])
def test_no_ground_truth_is_all_background(gt_count):
    boxes = torch.rand(1, 5, 4)
    valid = torch.tensor([[True, True, True, True, False]])
    gt = torch.zeros(1, gt_count, 4)
    found = match(boxes, valid, gt, torch.zeros(1, gt_count, dtype=torch.bool), 0.5, 0.5, 0.5)
    assert found.tolist() == [[NEGATIVE] * 4 + [IGNORED]]


def test_anchors_inside():
    anchors = torch.tensor([[0.0, 0, 32, 32], [-1, 0, 31, 32], [68, 0, 100, 32], [67, 0, 99, 32], [90, 0, 130, 32]])
    sizes = torch.tensor([[64, 100], [64, 200]])
    assert anchors_inside(anchors, sizes, 0).tolist() == [
        [True, False, False, True, False],
        [True, False] + [True] * 3,
    ]
    assert anchors_inside(anchors, sizes, 1)[0].tolist() == [True, True, True, True, False]
    # 100 pixels are padded to 128: centres up to there count when any border is allowed.
    assert anchors_inside(anchors + 25, sizes, -1)[0].tolist() == [True, True, True, True, False]
