"""Segmentations: every way to write one gives the same bits, and what is none is told."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_fast.data.masks import to_bitmaps, to_rle, usable
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
