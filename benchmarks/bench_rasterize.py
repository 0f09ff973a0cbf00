"""Polygons to run lengths, and to the small masks of boxes, beside pycocotools and what detectron2 makes of it."""

import math

import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import plural, select
from htc_fast import ops

# Objects, points of each, radius in pixels, image.
USUAL = [(100, 40, 110, (1080, 1920)), (1000, 20, 12, (1080, 1920)), (1, 40, 110, (1080, 1920))]
QUICK = USUAL[:1]
REST = [(20, 40, 60, (480, 640)), (100, 400, 400, (3000, 4000))]
BOXES = [(512, 16, (800, 1344)), (128, 16, (800, 1344))]


def outlines(draw, count: int, points: int, radius: float, image: tuple[int, int]) -> list[list[list[float]]]:
    """Stars of as many points, as lists of Python's floats."""
    height, width = image
    centres = draw.normal(count, 3).double().cpu().sigmoid() * torch.tensor([width, height, 2 * radius])
    angles = [2 * math.pi * k / points for k in range(points)]
    rays = [
        (math.cos(one) * (1 + 0.2 * math.sin(5 * one)), math.sin(one) * (1 + 0.2 * math.sin(5 * one))) for one in angles
    ]
    return [[[value for c, s in rays for value in (x + c * size, y + s * size)]] for x, y, size in centres.tolist()]


def alike(ours, other, who):
    assert [one["counts"] for one in ours] == [one["counts"] for one in other], f"differs from {who}"


@pytest.mark.parametrize(("count", "points", "radius", "image"), select(USUAL, QUICK, REST))
def bench_rasterize(compare, draw, count, points, radius, image):
    count, size = draw.count(count), draw.size(image)
    objects = outlines(draw, count, points, radius, size)
    calls = {
        "htc_fast": lambda: ops.rasterize(objects, size),
        "pycocotools": rivals.pycocotools_polygons(objects, size),
    }
    words = f"{plural(count, 'object')} of {points} points at {size[0]}×{size[1]}"
    compare(words, calls, alike, op="rasterize")


def alike_masks(ours, other, who):
    assert torch.equal(ours.cpu(), other.cpu()), f"differs from {who}"


@pytest.mark.parametrize(("count", "objects", "image"), select(BOXES, BOXES[:1], []))
def bench_in_boxes(compare, draw, count, objects, image):
    count, size = draw.count(count), draw.size(image)
    polygons = outlines(draw, objects, 40, 80, size)
    index = torch.arange(count) % objects
    around = torch.tensor(
        [[min(one[0][::2]), min(one[0][1::2]), max(one[0][::2]), max(one[0][1::2])] for one in polygons]
    )
    boxes = (around[index] + 5 * draw.normal(count, 4).cpu()).float()
    calls = {
        "htc_fast": lambda: ops.rasterize_in_boxes(polygons, boxes, 28, index),
        "detectron2's calls of pycocotools": rivals.polygons_within_boxes(polygons, boxes, 28, index),
    }
    compare(f"{plural(count, 'RoI')} on {objects} objects", calls, alike_masks, op="rasterize_in_boxes")
