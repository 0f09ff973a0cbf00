"""COCO RLE dicts at the door: every form that people give, what pycocotools writes, and what is none."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle

BACKENDS = pytest.mark.parametrize("backend", ["cpp", "reference"])
SHAPES = [(1, 1), (7, 5), (1, 300), (300, 1), (64, 65), (0, 4)]


def drawn(shape: tuple[int, int], seed: int, share: float) -> dict:
    bitmap = np.random.default_rng(seed).random(shape) < share
    return coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))


@BACKENDS
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_there_and_back(backend, share):
    rles = [drawn(shape, seed, share) for seed, shape in enumerate(SHAPES)]
    with ops.use_backend(backend):
        masks = _rle.read("masks", rles)
        assert _rle.write(masks) == [{"size": list(one["size"]), "counts": one["counts"]} for one in rles]
    areas = [int((masks.runs[a:b, 1] - masks.runs[a:b, 0]).sum()) for a, b in zip(masks.offsets, masks.offsets[1:])]
    assert areas == [int(coco_mask.area(one)) for one in rles]


@BACKENDS
def test_runs_that_touch_are_one(backend):
    with ops.use_backend(backend):
        masks = _rle.read("masks", {"size": [2, 5], "counts": [1, 2, 0, 3, 2, 0, 0, 2]})
        assert masks.runs.tolist() == [[1, 6], [8, 10]] and masks.offsets.tolist() == [0, 2]
        assert _rle.write(masks)[0]["counts"] == _rle.compressed([1, 5, 2, 2])


@BACKENDS
def test_forms(backend):
    made = coco_mask.encode(np.asfortranarray(np.eye(4, dtype=np.uint8)))
    listed = {"size": (4, 4), "counts": np.array([0, 1, 4, 1, 4, 1, 4, 1])}
    with ops.use_backend(backend):
        masks = _rle.read("masks", [made, {**made, "counts": made["counts"].decode()}, listed])
        assert [one["counts"] for one in _rle.write(masks)] == [made["counts"]] * 3
        assert _rle.write(_rle.read("masks", [])) == []


BAD = [
    ([{"size": [4, 4], "counts": b"\x10"}], ValueError, r"masks\[0\] is no RLE of a picture of \[4, 4\]: .*letter"),
    ([{"size": [4, 4], "counts": b"`"}], ValueError, "letter"),
    ([{"size": [4, 4], "counts": b""}], ValueError, "add up"),
    ([{"size": [4, 4], "counts": [3, 4]}], ValueError, "add up"),
    ([{"size": [4, 4], "counts": [0, 16]}, {"size": [4, 4], "counts": [3, 14]}], ValueError, r"masks\[1\].*add up"),
    ([{"size": [4, 4], "counts": [-1, 17]}], ValueError, "negative"),
    ([{"size": [4], "counts": [16]}], ValueError, "size must be"),
    ([{"size": [4, 1.5], "counts": [16]}], TypeError, "whole numbers"),
    ([{"size": [4, 4], "counts": ["16"]}], TypeError, "whole numbers"),
    ([{"counts": [16]}], TypeError, "must be a COCO RLE dict"),
    ("abc", TypeError, "masks must be a list"),
    ([torch.ones(2, 2)], TypeError, "must be a COCO RLE dict"),
]


@BACKENDS
@pytest.mark.parametrize("rles, error, said", BAD)
def test_what_is_none(rles, error, said, backend):
    with ops.use_backend(backend), pytest.raises(error, match=said):
        _rle.read("masks", rles)


def test_a_number_longer_than_any():
    with pytest.raises(ValueError, match="letter"):
        _rle.read("masks", [{"size": [4, 4], "counts": b"o" * 500 + b"0"}])
