"""Outlines of masks: rasterised they give the mask again, string for string; rings as GeoJSON wants them."""

import resource
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import ON_CPU, columns

COLUMNS = pytest.mark.parametrize("column", columns("rle_to_polygons", ON_CPU))
PICTURES = {
    "nothing": ["....", "...."],
    "one pixel": ["...", ".#.", "..."],
    "everything": ["###", "###"],
    "one row": ["##.##"],
    "one column": ["#", ".", "#"],
    "touching corners": ["#..#", ".##.", ".##.", "#..#"],
    "a hole": ["####", "#..#", "####"],
    "two holes in a row": ["#####", "#.#.#", "#####"],
    "a hole below a hole": ["####", "#.##", "####", "#.##", "####"],
    "islands in holes": ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"],
    "a hole that touches outside at a corner": ["###", "#.#", "##.", "###"],
    "two holes that touch at a corner": ["#####", "#.###", "##.##", "#####"],
    "a ring closed by corners": [".##.", "#..#", ".##."],
    "a spiral": ["######", "#....#", "#.##.#", "#.#..#", "#.####", "#....."],
    "an island that touches its surroundings": ["#####", "#...#", "#.#.#", "##..#", "#####"],
}


def encoded(bitmap) -> dict:
    return coco_mask.encode(np.asfortranarray(np.asarray(bitmap, dtype=np.uint8)))


def picture(name: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in PICTURES[name]])


def area(ring: list[list[int]]) -> float:
    x, y = np.array(ring, dtype=np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def check(bitmap: np.ndarray, bridged: list, separate: list) -> None:
    """The mask again from either form, pieces joined by edges, rings that are simple."""
    (rle,), (again,) = [encoded(bitmap)], ops.rasterize([bridged], bitmap.shape)
    assert again == rle and coco_mask.area(rle) == sum(
        area(piece["outer"]) + sum(map(area, piece["holes"])) for piece in separate
    )
    if bridged:
        assert coco_mask.merge(coco_mask.frPyObjects(bridged, *bitmap.shape)) == rle
    assert len(bridged) == len(separate)
    for piece, flat in zip(separate, bridged, strict=True):
        rings = [piece["outer"], *piece["holes"]]
        assert area(piece["outer"]) > 0 and all(area(hole) < 0 for hole in piece["holes"])
        assert area(np.reshape(flat, (-1, 2))) == sum(map(area, rings))
        for ring in rings:
            points = np.array(ring)
            steps = np.roll(points, -1, axis=0) - points
            assert ((steps == 0).sum(axis=1) == 1).all(), "along the pixels"
            assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all(), "corners alone"
            assert len(np.unique(points, axis=0)) == len(points) >= 4
            assert ring[0] == min(ring)


@COLUMNS
@pytest.mark.parametrize("name", PICTURES)
def test_named(name, column):
    bitmap = picture(name)
    forms = [column.call("rle_to_polygons", [encoded(bitmap)], holes)[0] for holes in ("bridged", "separate")]
    check(bitmap, *forms)


@COLUMNS
def test_as_written(column):
    """A ring of pixels around a hole, and a pixel that touches it at a corner."""
    bitmap = ["####.", "#..#.", "####.", "....#"]
    rle = encoded([[letter == "#" for letter in row] for row in bitmap])
    (separate,) = column.call("rle_to_polygons", [rle], "separate")
    assert separate == [
        {"outer": [[0, 0], [4, 0], [4, 3], [0, 3]], "holes": [[[1, 1], [1, 2], [3, 2], [3, 1]]]},
        {"outer": [[4, 3], [5, 3], [5, 4], [4, 4]], "holes": []},
    ]
    assert column.call("rle_to_polygons", rle) == [
        [
            [0, 0, 1, 0, 1, 1, 1, 2, 3, 2, 3, 1, 1, 1, 1, 0, 4, 0, 4, 3, 0, 3],
            [4, 3, 5, 3, 5, 4, 4, 4],
        ]
    ]


@COLUMNS
def test_holes_at_a_corner_are_rings_of_their_own(column):
    bitmap = picture("a hole that touches outside at a corner")
    ((piece,),) = column.call("rle_to_polygons", [encoded(bitmap)], "separate")
    assert piece["outer"] == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [3, 3], [3, 4], [0, 4]]
    assert piece["holes"] == [[[1, 1], [1, 2], [2, 2], [2, 1]]]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 14), st.integers(1, 14), st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.8, 0.95]),
    st.booleans(),
)  # fmt: skip
def test_drawn(height, width, seed, share, grown):
    bitmap = np.random.default_rng(seed).random((height, width)) < share
    if grown:  # pieces of four pixels, as objects have rather than noise
        bitmap = bitmap.repeat(2, axis=0).repeat(3, axis=1)
    rle, forms = encoded(bitmap), []
    for holes in ("bridged", "separate"):
        (found,) = ops.rle_to_polygons([rle], holes)
        with ops.use_backend("reference"):
            assert ops.rle_to_polygons([rle], holes) == [found]
        forms.append(found)
    check(bitmap, *forms)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.9])
def test_noise_of_many_pieces_and_holes(share):
    bitmap = np.random.default_rng(1).random((211, 300)) < share
    rle = encoded(bitmap)
    (found,) = ops.rle_to_polygons([rle])
    assert ops.rasterize([found], bitmap.shape) == [rle]


def test_pieces_and_holes_are_those_that_torch_counts():
    """Labels spread until nothing changes: to four neighbours in the mask, to eight beside it."""
    bitmap = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.6
    (found,) = ops.rle_to_polygons([encoded(bitmap.numpy())], "separate")
    assert len(found) == spread(bitmap, corners=False)
    # Of the background's pieces one is outside; a hole that touches itself at corners is several rings.
    padded = torch.nn.functional.pad(~bitmap, (1, 1, 1, 1), value=True)
    rings = sum(len(piece["holes"]) for piece in found)
    assert spread(padded, corners=True) - 1 <= rings <= spread(padded, corners=False) - 1


def spread(mask: torch.Tensor, corners: bool) -> int:
    labels = torch.where(mask, torch.arange(1, mask.numel() + 1).view(mask.shape), 0).float()[None, None]
    while True:
        if corners:
            wider = torch.nn.functional.max_pool2d(labels, 3, 1, 1)
        else:
            ways = (((3, 1), (1, 0)), ((1, 3), (0, 1)))
            wider = torch.maximum(*(torch.nn.functional.max_pool2d(labels, size, 1, pad) for size, pad in ways))
        wider = wider * mask
        if torch.equal(wider, labels):
            return len(labels.unique()) - 1
        labels = wider


def test_a_huge_picture_is_quick_and_small():
    """A disc and a bar on 20 000 x 20 000 pixels."""
    angle = np.linspace(0, 2 * np.pi, 100)
    disc = np.stack([9000 + 3000 * np.cos(angle), 9000 + 3000 * np.sin(angle)], axis=1)
    rles = ops.rasterize([[disc, [0, 19_000, 20_000, 19_000, 20_000, 19_010, 0, 19_010]]], (20_000, 20_000))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = ops.rle_to_polygons(rles)
    assert time.perf_counter() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
    assert len(found[0]) == 2 and ops.rasterize(found, (20_000, 20_000)) == rles


@COLUMNS
def test_several_masks_and_none(column):
    rles = [encoded(picture(name)) for name in PICTURES]
    found = column.call("rle_to_polygons", rles)
    assert found == [column.call("rle_to_polygons", [one])[0] for one in rles]
    assert column.call("rle_to_polygons", []) == []
    assert column.call("rle_to_polygons", [{"size": [0, 4], "counts": b"0"}, {"size": [3, 0], "counts": [0]}]) == [
        [],
        [],
    ]


@COLUMNS
def test_what_is_none(column):
    with pytest.raises(ValueError, match="holes must be 'bridged' or 'separate', got 'both'"):
        column.call("rle_to_polygons", [encoded(picture("a hole"))], "both")
    with pytest.raises(ValueError, match=r"rles\[0\] is no RLE"):
        column.call("rle_to_polygons", [{"size": [2, 2], "counts": b"5"}])


def test_opcheck():
    masks = _rle.read("masks", [encoded(picture(name)) for name in PICTURES])
    for bridged in (True, False):
        torch.library.opcheck(torch.ops.htc_fast.rle_to_polygons.default, (*masks, bridged))
    assert torch.ops.htc_fast.rle_to_polygons(*masks, True)[3].tolist()[-1] > len(PICTURES)
