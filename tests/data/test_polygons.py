"""Polygons of any reach: pycocotools' bits where it can count that far, the true polygon's where it cannot."""

import platform
import resource

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_fast.data import polygons
from htc_fast.data.masks import to_rle

# Elsewhere compilers may fuse pycocotools' multiplication and addition, which moves a step of the outline now and then.
TOLERANCE = 0 if platform.machine() == "x86_64" else 3


def decode(runs, height, width):
    return coco_mask.decode(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


@pytest.mark.parametrize("reach", [1, 3, 30, 1000])
def test_equal_to_pycocotools_whatever_lies_outside(reach):
    draw = np.random.default_rng(reach)
    for number in range(200):
        height, width = draw.integers(1, 60, 2).tolist()
        points = (draw.random((draw.integers(3, 12), 2)) - 0.5) * reach * max(height, width) + [width / 2, height / 2]
        # Whole and half pixels are where roundings meet.
        polygon = (points, points.round(), (2 * points).round() / 2)[number % 3].ravel().tolist()
        theirs = coco_mask.decode(coco_mask.frPyObjects([polygon], height, width))[..., 0]
        ours = polygons.runs(polygon, height, width)
        assert sum(ours) == height * width
        assert (decode(ours, height, width) != theirs).sum() <= TOLERANCE


FAR = {
    "as reported": [10, 10, 1e8, 20, 30, 60],
    "left": [-1e8, -1e8, 40, 10, -1e8, 90],
    "around all": [-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9],
    "farthest": [20, 5, 1e15, 1e15, -1e15, 1e15],
    "zigzag": [0, 0, 1e12, 30, -1e12, 60, 1e12, 90, 0, 127],
    "beyond": [1e9, 1e9, 1e9 + 5, 1e9, 1e9, 1e9 + 5],
    "above": [10, -1e10, 90, -1e10, 50, -5],
}


def true_polygon(polygon, height, width):
    """Which pixel centres are inside, by even and odd crossings of a ray, and how far each is from an edge across."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    nearest = np.full((height, width), np.inf)
    points = np.reshape(polygon, (-1, 2))
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            level = y1 + (x - x1) / (x2 - x1) * (y2 - y1)
        crossed = ((x1 > x) != (x2 > x)) & (level > y)
        inside ^= crossed
        length = np.hypot(x2 - x1, y2 - y1)
        away = np.abs((x2 - x1) / length * (y - y1) - (y2 - y1) / length * (x - x1))
        nearest = np.minimum(nearest, away)
    return inside, nearest


@pytest.mark.parametrize("polygon", FAR.values(), ids=FAR)
def test_far_polygons_are_the_true_ones(polygon):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = coco_mask.decode(to_rle([polygon], 128, 160)).astype(bool)
    inside, nearest = true_polygon(polygon, 128, 160)
    sure = nearest > 1
    assert sure.mean() > 0.9 and (found == inside)[sure].all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_the_area_of_the_reported_one():
    """A strip of 150 x 50 pixels less a triangle of 20 x 50."""
    assert coco_mask.area(to_rle([[10.0, 10, 1e8, 20, 30, 60]], 128, 160)) == 7000


def test_what_lies_near_is_left_to_pycocotools():
    near = [-30.5, 10, 200, 20.25, 30, 300]
    assert polygons.is_short(near) and not polygons.is_short([10, 10, 1e8, 20, 30, 60])
    assert to_rle([near], 128, 160) == coco_mask.merge(coco_mask.frPyObjects([near], 128, 160))


def test_long_outlines_and_several_parts():
    """A comb whose outline is 2 million pixels long; a second part lies beside it."""
    x = np.repeat(np.arange(0, 500, 0.25), 2)
    y = np.tile([-500.0, 500.0, 500.0, -500.0], 1000)
    comb = np.stack([x, y], axis=1).ravel().tolist()
    assert not polygons.is_short(comb)
    beside = [510, 10, 590, 10, 590, 90, 510, 90]
    theirs = coco_mask.merge(coco_mask.frPyObjects([comb, beside], 100, 600))
    assert (coco_mask.decode(to_rle([comb, beside], 100, 600)) != coco_mask.decode(theirs)).sum() <= TOLERANCE
