"""Polygons to pixels: pycocotools' strings, its masks in boxes as detectron2 makes them, far outlines, every form."""

import platform
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _native, _polygons, _rle
from tests.ops.backends import ON_CPU, columns

RASTERIZE = pytest.mark.parametrize("column", columns("rasterize", ON_CPU))
IN_BOXES = pytest.mark.parametrize("column", columns("rasterize_in_boxes", ON_CPU))
# Elsewhere compilers may fuse pycocotools' multiplication and addition, which moves a step of the outline now and then.
SAME = platform.machine() == "x86_64"
SQUARE = [1, 2, 7, 2, 7, 8, 1, 8]
CASES = {
    "square": [SQUARE],
    "halves": [[0.5, 0.5, 4.5, 0.5, 4.5, 3.5, 0.5, 3.5]],
    "steep": [[3, -50, 3.4, 90, 8, 91.5]],
    "flat": [[-50, 3, 90, 3.4, 91.5, 8]],
    "one pixel wide": [[2, 0, 3, 0, 3, 9, 2, 9]],
    "thinner than a pixel": [[2.3, 0, 2.9, 0, 2.9, 9, 2.3, 9]],
    "repeated points": [[1, 1, 1, 1, 8, 1, 8, 1, 8, 9, 8, 9, 1, 1]],
    "a line there and back": [[1, 1, 9, 9, 1, 1]],
    "all one point": [[3, 3, 3, 3, 3, 3]],
    "crossing itself": [[0, 0, 9, 9, 9, 0, 0, 9]],
    "a star": [[5, 0, 8, 10, 0, 4, 10, 4, 2, 10]],
    "outside": [[20, 20, 30, 20, 30, 30]],
    "around the picture": [[-9, -9, 40, -9, 40, 40, -9, 40]],
    "negative": [[-5, -5, 4, -2, -3, 6]],
    "to the last row": [[0, 0, 3, 0, 3, 11, 0, 11], [3, 0, 6, 0, 6, 11, 3, 11]],
    "two that overlap": [SQUARE, [4, 4, 10, 4, 10, 10, 4, 10]],
    "two that touch": [[0, 0, 4, 0, 4, 4, 0, 4], [4, 0, 8, 0, 8, 4, 4, 4], [0, 4, 8, 4, 8, 9, 0, 9]],
    "one in the other": [[0, 0, 9, 0, 9, 9, 0, 9], [3, 3, 5, 3, 5, 5, 3, 5]],
}


def of_coco(polygons, height: int, width: int) -> dict:
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def moved_pixels(ours: dict, theirs: dict) -> int:
    return int((coco_mask.decode(ours) != coco_mask.decode(theirs)).sum())


@RASTERIZE
@pytest.mark.parametrize("name", CASES)
def test_named(name, column):
    for size in ((11, 10), (1, 1), (40, 3), (3, 40)):
        (found,) = column.call("rasterize", [CASES[name]], size)
        theirs = of_coco(CASES[name], *size)
        assert found == theirs if SAME else moved_pixels(found, theirs) <= 3


@RASTERIZE
@pytest.mark.parametrize("reach", [1, 3, 30, 1000])
def test_whatever_lies_outside(reach, column):
    draw = np.random.default_rng(reach)
    objects, theirs = [], []
    height, width = draw.integers(1, 60, 2).tolist()
    for number in range(200 if column.name == "cpp" else 30):
        points = (draw.random((draw.integers(3, 12), 2)) - 0.5) * reach * max(height, width) + [width / 2, height / 2]
        # Whole and half pixels are where roundings meet.
        objects.append([(points, points.round(), (2 * points).round() / 2)[number % 3].ravel().tolist()])
        theirs.append(of_coco(objects[-1], height, width))
    found = column.call("rasterize", objects, (height, width))
    assert found == theirs if SAME else sum(map(moved_pixels, found, theirs)) <= 3 * len(objects)


number = st.one_of(st.integers(-30, 60), st.floats(-100, 100), st.integers(-60, 120).map(lambda one: one / 10))
polygon = st.lists(st.tuples(number, number), min_size=3, max_size=9).map(lambda some: [v for one in some for v in one])


@pytest.mark.skipif(not SAME, reason="pycocotools' own bits differ where its compiler fuses")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(polygon, min_size=1, max_size=3), max_size=3), st.integers(1, 40), st.integers(1, 40))
def test_drawn(objects, height, width):
    wanted = [of_coco(one, height, width) for one in objects]
    assert ops.rasterize(objects, (height, width)) == wanted
    with ops.use_backend("reference"):
        assert ops.rasterize(objects, (height, width)) == wanted


FAR = {
    "as reported": [10, 10, 1e8, 20, 30, 60],
    "left": [-1e8, -1e8, 40, 10, -1e8, 90],
    "around all": [-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9],
    "farthest": [20, 5, 1e15, 1e15, -1e15, 1e15],
    "zigzag": [0, 0, 1e12, 30, -1e12, 60, 1e12, 90, 0, 127],
    "beyond": [1e9, 1e9, 1e9 + 5, 1e9, 1e9, 1e9 + 5],
    "above": [10, -1e10, 90, -1e10, 50, -5],
    "very steep": [40, -1e15, 80, 1e15, 60, 1e15],
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


@RASTERIZE
@pytest.mark.parametrize("name", FAR)
def test_far_ones_are_the_true_ones(name, column):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = coco_mask.decode(column.call("rasterize", [[FAR[name]]], (128, 160))[0]).astype(bool)
    inside, nearest = true_polygon(FAR[name], 128, 160)
    sure = nearest > 1
    assert sure.mean() > 0.9 and (found == inside)[sure].all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_the_area_of_the_reported_one():
    """A strip of 150 x 50 pixels less a triangle of 20 x 50."""
    assert coco_mask.area(ops.rasterize([[10.0, 10, 1e8, 20, 30, 60]], (128, 160))) == [7000]


@pytest.mark.parametrize("wide, points", [(600, 1000), (3, 200_000), (20_000, 1000)])
def test_long_outlines_in_little_memory(wide, points):
    """Combs of more crossings than are kept at a time; beside the second column's all are in one."""
    x = np.repeat(np.linspace(0, wide - 0.5, points), 2)
    y = np.tile([-3.0, 90.0, 90.0, -3.0], points // 2)
    comb = np.stack([x, y], axis=1)
    rows = np.stack([np.tile([0.0, wide, wide, 0.0], 100), np.repeat(np.linspace(0, 90, 200), 2)], axis=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ops.rasterize([[comb], [rows]], (100, wide))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"
    theirs = [of_coco([one.ravel().tolist()], 100, wide) for one in (comb, rows)]
    assert found == theirs if SAME else max(map(moved_pixels, found, theirs)) < 1000


def test_more_crossings_than_there_is_room_for():
    """Six million crossings of 60 columns, which no outline has that is walked in between."""
    rows = np.stack([np.tile([-1.0, 61.0], 50_000), np.repeat(np.linspace(0, 90, 50_000), 2)], axis=1)
    assert ops.rasterize([[rows]], (100, 60)) == [of_coco([rows.ravel().tolist()], 100, 60)]


@RASTERIZE
def test_every_form_of_a_polygon(column):
    points = np.reshape(SQUARE, (-1, 2)).astype(np.float64)
    forms = [
        [SQUARE], [[float(one) for one in SQUARE]], [points.tolist()], [tuple(map(tuple, points))], [tuple(SQUARE)],
        [points], [points.ravel()], [points.astype(np.float32)], [np.asarray(SQUARE)], [torch.tensor(points)],
        [torch.tensor(SQUARE)], [torch.tensor(points).half()[:, [1, 0]].flip(1)], np.asarray([SQUARE]), points,
        torch.tensor(points), SQUARE, points.tolist(), (SQUARE,), [list(map(np.float32, SQUARE))], np.array(SQUARE),
    ]  # fmt: skip
    wanted = of_coco([SQUARE], 11, 10)
    assert column.call("rasterize", forms, (11, 10)) == [wanted] * len(forms)
    assert column.call("rasterize", tuple(forms[:3]), np.array([11, 10])) == [wanted] * 3
    assert column.call("rasterize", np.asarray([[SQUARE]]), (11, 10)) == [wanted]


@RASTERIZE
def test_without_pixels(column):
    empty = [[], [[]], [[3.0, 4.0]], [[1, 1, 9, 9]], [[1, 1, 9, 1, 9, 9]][:0]]
    found = column.call("rasterize", empty, (11, 10))
    assert {one["counts"] for one in found} == {_rle.compressed([110])} and len(found) == len(empty)
    assert column.call("rasterize", [], (11, 10)) == []
    for size in ((0, 10), (11, 0), (0, 0)):
        assert column.call("rasterize", [[SQUARE]], size) == [{"size": list(size), "counts": b"0"}]


def test_packing_is_one_whoever_does_it(monkeypatch):
    objects = [[SQUARE, [0.5, 1, 2, 3, 4, 10**15]], [], [[1.5] * 6, []]]
    native = _polygons.read(objects)
    monkeypatch.setattr(_native, "build", None)
    python = _polygons.read(objects)
    assert all(torch.equal(one, other) for one, other in zip(native, python, strict=True))
    assert native.objects.tolist() == [0, 2, 2, 4] and native.parts.tolist() == [0, 4, 7, 10, 10]


def test_a_huge_picture():
    (found,) = ops.rasterize([[[100, 100, 19_900, 100, 19_900, 19_900, 100, 19_900]]], (20_000, 20_000))
    assert int(_rle.read("found", found).runs.diff(dim=1).sum()) == 19_800**2


BAD = [
    ([[[1, 2, 3, float("nan"), 5, 6]]], ValueError, r"polygons\[0\] has a point at 3, nan: coordinates must be finite"),
    ([[SQUARE], [SQUARE, [1, 2, 3, 4, 5, float("inf")]]], ValueError, r"polygons\[1\] has a point at 5, inf"),
    ([[[1, 2, 3, 4, 5, 2e15]]], ValueError, "at most 1e15"),
    ([[[1, 2, 3, 4, 5, 10**400]]], ValueError, "too large"),
    ([[SQUARE[:7]]], ValueError, r"polygons\[0\] holds half a point"),
    ([[["1", 2, 3, 4, 5, 6]]], TypeError, r"polygons\[0\] must be a list of polygons, each a list x1, y1"),
    ([[None]], TypeError, "list of polygons"),
    ([None], TypeError, r"polygons\[0\] must be a list"),
    ([{"segmentation": [SQUARE]}], TypeError, "give a COCO annotation's segmentation"),
    ([[np.zeros((3, 3))]], ValueError, r"array \[3, 3\]"),
    ("abc", TypeError, "polygons must be a list"),
    (None, TypeError, "polygons must be a list"),
]


@RASTERIZE
@pytest.mark.parametrize("polygons, error, said", BAD)
def test_what_is_none(polygons, error, said, column):
    with pytest.raises(error, match=said):
        column.call("rasterize", polygons, (11, 10))
    with pytest.raises(ValueError, match="image_size"):
        column.call("rasterize", [[SQUARE]], (11,))


def test_one_polygon_of_points_is_no_list_of_objects():
    for points in ([[1, 1], [4, 1], [4, 4]], torch.tensor([[1.0, 1], [4, 1], [4, 4]])):
        with pytest.raises(ValueError, match=r"polygons holds points alone"):
            ops.rasterize(points, (5, 6))
    assert ops.rle_area(ops.rasterize([[[1, 1], [4, 1], [4, 4]]], (5, 6))).tolist() == [3]
