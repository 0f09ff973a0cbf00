"""Masks back to polygons beside OpenCV, whose contours need the whole mask and go through the centres of pixels."""

import pytest

from benchmarks import rivals
from benchmarks.bench_rasterize import outlines
from benchmarks.cases import plural, select
from htc_fast import ops

# Objects, radius in pixels, image.
USUAL = [(100, 110, (1080, 1920)), (10, 400, (3000, 4000))]
QUICK = USUAL[:1]


def alike(ours, other, who):
    """As many pieces with holes; OpenCV joins those that touch at a corner, and loses half a pixel all around."""
    for pieces, contours in zip(ours, other, strict=True):
        assert len(contours) <= sum(1 + len(piece["holes"]) for piece in pieces), f"differs from {who}"


@pytest.mark.parametrize(("count", "radius", "image"), select(USUAL, QUICK, []))
def bench_outlines(compare, draw, count, radius, image):
    count, size = draw.count(count), draw.size(image)
    rles = ops.rasterize(outlines(draw, count, 40, radius, size), size)
    assert ops.rasterize(ops.rle_to_polygons(rles), size) == rles
    calls = {
        "htc_fast": lambda: ops.rle_to_polygons(rles, "separate"),
        "htc_fast, holes bridged": lambda: ops.rle_to_polygons(rles),
        "decode, cv2.findContours": rivals.opencv_contours(rles),
    }

    def check(ours, other, who):
        if who == "htc_fast, holes bridged":
            assert list(map(len, other)) == list(map(len, ours))
        else:
            alike(ours, other, who)

    compare(f"{plural(count, 'mask')} at {size[0]}×{size[1]}", calls, check, op="rle_to_polygons")
