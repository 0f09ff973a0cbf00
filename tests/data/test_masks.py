"""Segmentations: every way to write one gives the same bits, and what is none is told."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_fast.data.masks import box_of, from_bitmaps, is_blank, to_bitmaps, to_rle, usable
from tests.data.builder import rectangle


def random_bitmap(seed=0):
    return (np.random.default_rng(seed).random((11, 7)) < 0.5).astype(np.uint8)


def uncompressed(bitmap):
    flat = bitmap.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(bitmap.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


@pytest.mark.parametrize("seed", range(5))
def test_all_segmentations_agree(seed):
    bitmap = random_bitmap(seed)
    compressed = coco_mask.encode(np.asfortranarray(bitmap))
    text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    for segmentation in (uncompressed(bitmap), compressed, text):
        assert usable(segmentation, *bitmap.shape)
        assert (to_bitmaps([to_rle(segmentation, *bitmap.shape)], *bitmap.shape)[0] == bitmap).all()
    assert to_bitmaps([to_rle(rectangle(2, 3, 4, 5), 11, 7)], 11, 7)[0, 3:8, 2:6].all()


UNUSABLE = {
    "another size": {"size": [7, 11], "counts": [77]},
    "too short": {"size": [11, 7], "counts": [70]},
    "too long": {"size": [11, 7], "counts": [70, 8]},
    "negative": {"size": [11, 7], "counts": [80, -3]},
    "compressed, too short": {"size": [11, 7], "counts": "0i0"},
    "compressed, cut off": {"size": [11, 7], "counts": "0T"},
    "compressed, no code": {"size": [11, 7], "counts": "0\x7f3"},
    "no counts": {"size": [11, 7]},
    "number": 5,
    "odd polygon": [[1, 2, 3, 4, 5, 6, 7]],
    "polygon with NaN": [[1, 2, 3, 4, 5, float("nan")]],
    "text": "polygon",
    "huge run": {"size": [11, 7], "counts": [2**70, 7]},
    "runs that overflow to the sum": {"size": [11, 7], "counts": [2**32, 77]},
    "true as a run": {"size": [11, 7], "counts": [True, 76]},
    "half a pixel": {"size": [11, 7], "counts": [0.5, 76.5]},
    "no runs": {"size": [11, 7], "counts": []},
    "nested runs": {"size": [11, 7], "counts": [[77]]},
    "runs as an object": {"size": [11, 7], "counts": {"0": 77}},
    "letters that no text has": {"size": [11, 7], "counts": "\ud800"},
    "size as text": {"size": "11, 7", "counts": [77]},
    "texts": {"a": "b"},
    "polygons in a list too many": [[[[1, 2], [3, 4], [5, 9]]]],
    "polygon of 400 digits": [[1, 2, 3, 4, 5, 10**400]],
    "polygon with a flag": [[1, 2, 3, 4, 5, True]],
    "two points": [[1, 2, 3, 4]],
    "points of three": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "empty": [],
    "empty parts": [[], []],
}


@pytest.mark.parametrize("segmentation", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_segmentation(segmentation):
    assert usable(segmentation, 11, 7) is None


@pytest.mark.parametrize("seed", range(6))
def test_boxes_and_letters_are_pycocotools(seed):
    random = np.random.default_rng(seed)
    for number in range(40):
        height, width = random.integers(1, 40, 2).tolist()
        bitmap = (random.random((height, width)) < random.choice([0, 0.01, 0.2, 0.9, 1])).astype(np.uint8)
        if number % 2:  # none of them again, as an outline has it
            x, y = random.integers(0, width), random.integers(0, height)
            bitmap[:, :x] = bitmap[:y] = 0
        theirs = coco_mask.encode(np.asfortranarray(bitmap))
        # Runs of no pixel between others, as annotators' tools write them.
        listed = {"size": [height, width], "counts": [*uncompressed(bitmap)["counts"], 0, 0] if number % 3 else [0, 0]}
        if number % 3 == 0:
            listed["counts"] += uncompressed(bitmap)["counts"]
        assert to_rle(listed, height, width)["counts"] == coco_mask.frPyObjects(listed, height, width)["counts"]
        assert box_of(theirs) == coco_mask.toBbox(theirs).tolist()
        assert from_bitmaps(bitmap[None]) == [{"size": [height, width], "counts": theirs["counts"].decode()}]
        assert is_blank(listed, height, width) == (not bitmap.any())


def test_another_size_and_a_short_one_are_told():
    with pytest.raises(ValueError, match=r"expected masks of \[4, 5\] pixels, got \[5, 4\]"):
        to_bitmaps([{"size": [5, 4], "counts": [20]}], 4, 5)
    with pytest.raises(ValueError, match="do not add up"):
        to_bitmaps([{"size": [4, 5], "counts": [19]}], 4, 5)
    assert to_bitmaps([], 4, 5).shape == (0, 4, 5)
