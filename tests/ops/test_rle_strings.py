"""COCO RLE dicts at the door: every form that people give, what pycocotools writes, and what is none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle
from htc_fast.ops.reference import rle as reference

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
        seen = _rle.read("masks", [{**made, "counts": memoryview(made["counts"])}])
        assert _rle.write(seen)[0]["counts"] == made["counts"]
        assert _rle.write(_rle.read("masks", [])) == []


BAD = [
    ([{"size": [4, 4], "counts": b"\x10"}], ValueError, r"masks\[0\] is no RLE of a picture of \[4, 4\]: .*letter"),
    ([{"size": [4, 4], "counts": b"`"}], ValueError, "letter"),
    ([{"size": [4, 4], "counts": b""}], ValueError, "add up"),
    ([{"size": [4, 4], "counts": [3, 4]}], ValueError, "add up"),
    ([{"size": [4, 4], "counts": [0, 16]}, {"size": [4, 4], "counts": [3, 14]}], ValueError, r"masks\[1\].*add up"),
    ([{"size": [4, 4], "counts": [-1, 17]}], ValueError, "negative"),
    ([{"size": [4, 4], "counts": [2**70]}], ValueError, "add up"),
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


letters = st.one_of(st.binary(max_size=40), st.text("0123456789:;<=>?@ABCDOPQ`_on", max_size=60).map(str.encode))
counted = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**34)), max_size=40).map(_rle.compressed)


@given(
    st.one_of(letters, counted), st.integers(0, 60), st.sampled_from([b"", b"\x2f", b"p", b"`", b"\xb1", b"O", b"2"])
)
@settings(max_examples=600, deadline=None)
def test_any_letters_are_read_alike(text, place, letter):
    """Strings of every kind, also with a letter changed: the same runs, or the same fault."""
    changed = text[:place] + letter + text[place + len(letter) :]
    for one in (text, changed):
        packed, size = torch.frombuffer(bytearray(one or b" "), dtype=torch.uint8)[: len(one)], [64, 2**31]
        found = torch.ops.htc_fast.read_runs(packed, torch.tensor([0, len(one)]), torch.tensor([size]))
        wanted = reference.read_runs([one], [size])
        assert all(torch.equal(*both) for both in zip(found, wanted)), one


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**20)), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_counts_are_read_alike(counts):
    one, size = _rle.compressed(counts), [1, sum(counts)]
    packed = torch.frombuffer(bytearray(one), dtype=torch.uint8)
    found = torch.ops.htc_fast.read_runs(packed, torch.tensor([0, len(one)]), torch.tensor([size]))
    assert all(torch.equal(*both) for both in zip(found, reference.read_runs([one], [size])))
    assert found[2].tolist() == [0] and int((found[0][:, 1] - found[0][:, 0]).sum()) == sum(counts[1::2])
