"""rle_area, rle_to_box and merge, backend x named case: what pycocotools says of the same strings."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import CPP, ON_CPU, cases, columns
from tests.ops.rle_cases import CASES, coco, draw, drawn

HUGE = (20_000, 20_000)


def check(column, masks) -> None:
    rles = coco(masks)
    assert column.call("rle_area", rles).tolist() == masks.sum((1, 2)).tolist()
    boxes = torch.tensor(coco_mask.toBbox(rles) if rles else np.zeros((0, 4)))
    boxes[:, 2:] += boxes[:, :2]
    assert torch.equal(column.call("rle_to_box", rles), boxes.float())
    for intersect in (False, True) if rles else ():
        made = coco_mask.merge(rles, intersect)
        assert column.call("merge", rles, intersect) == {"size": list(made["size"]), "counts": made["counts"]}


@pytest.mark.parametrize("name, column", cases("merge", [one for one in CASES if one[:3] != "no_"], ON_CPU))
def test_named(name, column):
    check(column, draw(*CASES[name]))


@pytest.mark.parametrize("name, column", cases("merge", ["no_masks", "no_rows", "no_columns"], ON_CPU))
def test_nothing_has_no_area_and_no_box(name, column):
    rles = coco(draw(*CASES[name]))
    assert column.call("rle_area", rles).tolist() == [0] * len(rles)
    assert column.call("rle_to_box", rles).tolist() == [[0.0] * 4] * len(rles)


@pytest.mark.parametrize("column", columns("merge", (CPP,)))
@drawn(150)
def test_drawn(column, height, width, kind, seed):
    check(column, torch.cat([draw(2, height, width, kind, seed), draw(1, height, width, "disc", seed)]))


@pytest.mark.parametrize("column", columns("merge", ON_CPU))
def test_one_dict_alone(column):
    masks = torch.zeros(1, 30, 40, dtype=torch.bool)
    masks[0, 3:9, 4:20] = True
    rle = coco(masks)[0]
    area, box = column.call("rle_area", rle), column.call("rle_to_box", rle)
    assert area.shape == () and area.item() == 96
    assert box.tolist() == [4, 3, 20, 9] and box.dtype == torch.float32
    assert column.call("merge", rle) == column.call("merge", [rle], intersect=True) == rle


@pytest.mark.parametrize("column", columns("merge", ON_CPU))
def test_runs_without_length_touch_no_box(column):
    assert column.call("rle_to_box", {"size": [4, 4], "counts": [5, 0, 5, 1, 5]}).tolist() == [2, 2, 3, 3]


@pytest.mark.parametrize("column", columns("merge", ON_CPU))
def test_masks_of_different_sizes_have_areas_and_boxes(column):
    rles = [coco(torch.ones(1, *size, dtype=torch.bool))[0] for size in [(3, 5), (70, 2)]]
    assert column.call("rle_area", rles).tolist() == [15, 140]
    assert column.call("rle_to_box", rles).tolist() == [[0, 0, 5, 3], [0, 0, 2, 70]]


def test_huge_images():
    pixels = HUGE[0] * HUGE[1]
    half = pixels // 2
    rles = [{"size": HUGE, "counts": [half, half]}, {"size": HUGE, "counts": [0, half + 7, half - 7]}]
    assert ops.rle_area(rles).tolist() == [half, half + 7]
    assert ops.rle_to_box(rles).tolist() == [[10_000, 0, 20_000, 20_000], [0, 0, 10_001, 20_000]]
    assert ops.rle_area(ops.merge(rles)).item() == pixels
    assert ops.rle_to_box(ops.merge(rles, intersect=True)).tolist() == [10_000, 0, 10_001, 7]


def test_opcheck():
    rles = coco(draw(3, 20, 30, "noise"))
    masks = _rle.read("rles", rles)
    torch.library.opcheck(torch.ops.htc_fast.measure_masks.default, tuple(_rle.pack("rles", rles)))
    torch.library.opcheck(torch.ops.htc_fast.merge_runs.default, (*masks, True))


@pytest.mark.parametrize(
    "rles, options, error, said",
    [
        ([], {}, ValueError, "at least one mask"),
        ([{"size": [1, 2], "counts": [2]}, {"size": [2, 1], "counts": [2]}], {}, ValueError, "all be of one size"),
        ([{"size": [1, 2], "counts": [2]}], {"intersect": "yes"}, TypeError, "intersect must be True or False"),
        ([3], {}, TypeError, "must be a COCO RLE dict"),
    ],
)
def test_errors(rles, options, error, said):
    with pytest.raises(error, match=said):
        ops.merge(rles, **options)
