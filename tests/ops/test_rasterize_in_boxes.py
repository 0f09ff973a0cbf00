"""Mask targets straight from polygons: what detectron2's calls of pycocotools make, RoI by RoI."""

import platform

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _polygons
from tests.ops.backends import ON_CPU, columns

IN_BOXES = pytest.mark.parametrize("column", columns("rasterize_in_boxes", ON_CPU))
SQUARE = [1, 2, 7, 2, 7, 8, 1, 8]
SAME = platform.machine() == "x86_64"


def of_detectron2(polygons: list, box: np.ndarray, size: int) -> np.ndarray:
    """One object's polygons in a box, in the types that NumPy gives it."""
    wide, high = (size / max(box[2] - box[0], 0.1), size / max(box[3] - box[1], 0.1))
    points = [(np.reshape(one, (-1, 2)).astype(np.float64) - box[:2]) for one in polygons]
    scaled = [np.stack([one[:, 0] * wide, one[:, 1] * high], axis=1).ravel() for one in points]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, size, size))).astype(bool)


def drawn(seed: int, count: int, dtype=torch.float32):
    draw = np.random.default_rng(seed)
    objects = []
    for k in range(count):
        centre = draw.random(2) * 200
        parts = [centre + (draw.random((draw.integers(3, 30), 2)) - 0.5) * 80 for _ in range(1 + k % 3)]
        objects.append([one.ravel().tolist() for one in parts])
    corners = torch.from_numpy(draw.random((count, 2, 2)) * 220 - 10).sort(dim=1).values
    return objects, corners.reshape(-1, 4).to(dtype)


@IN_BOXES
@pytest.mark.parametrize("size", [1, 7, 28, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_detectron2(dtype, size, column):
    objects, boxes = drawn(size, 40, dtype)
    found = column.call("rasterize_in_boxes", objects, boxes, size)
    wanted = np.stack([of_detectron2(*one, size) for one in zip(objects, boxes.numpy(), strict=True)])
    assert found.dtype == torch.bool and found.any()
    assert np.array_equal(found.numpy(), wanted) if SAME else (found.numpy() != wanted).mean() < 1e-3


@IN_BOXES
def test_several_boxes_for_one_object(column):
    objects, boxes = drawn(3, 20)
    index = torch.tensor([7, 0, 7, 19] * 5)
    found = column.call("rasterize_in_boxes", objects, boxes, 14, index)
    assert torch.equal(found, column.call("rasterize_in_boxes", [objects[k] for k in index], boxes, 14))
    assert torch.equal(found, column.call("rasterize_in_boxes", objects, boxes, 14, index.int().tolist()))


@IN_BOXES
def test_strange_boxes(column):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[nan, 0, 9, 9], [0, 0, inf, 9], [-inf, -inf, inf, inf], [0, 0, 2e15, 9], [3, 3, 3, 3]])
    boxes = torch.cat(
        [boxes, torch.tensor([[9.0, 9, 0, 0], [50, 50, 60, 60], [1, 2, 7, 8], [-1e14, -1e14, 1e14, 1e14]])]
    )
    found = column.call("rasterize_in_boxes", [[SQUARE]], boxes, 5, torch.zeros(len(boxes), dtype=torch.int64))
    assert found.flatten(1).sum(1).tolist() == [0, 0, 0, 0, 25, 0, 0, 25, 0]
    far = column.call("rasterize_in_boxes", [[[-1e15, -1e15, 1e15, -1e15, 1e15, 1e15, -1e15, 1e15]]], boxes[7:8])
    assert far.all()


@IN_BOXES
def test_forms(column):
    objects, boxes = drawn(5, 6)
    wanted = column.call("rasterize_in_boxes", objects, boxes.double())
    assert torch.equal(column.call("rasterize_in_boxes", objects, boxes.tolist()), wanted)
    as_numpy = column.call("rasterize_in_boxes", objects, boxes.double().numpy())
    assert isinstance(as_numpy, np.ndarray) and np.array_equal(as_numpy, wanted.numpy())
    strided = boxes.double().T.contiguous().T
    assert torch.equal(column.call("rasterize_in_boxes", objects, strided, device="cpu"), wanted)
    assert column.call("rasterize_in_boxes", [], boxes[:0]).shape == (0, 28, 28)
    assert column.call("rasterize_in_boxes", [], []).shape == (0, 28, 28)
    assert column.call("rasterize_in_boxes", objects, boxes[:0], 3, []).shape == (0, 3, 3)
    assert not column.call("rasterize_in_boxes", [[], [[]]], boxes[:2]).any()
    half = column.call("rasterize_in_boxes", objects, boxes.half())
    assert torch.equal(half, column.call("rasterize_in_boxes", objects, boxes.half().float()))


BAD = [
    ({"boxes": torch.rand(2, 4)}, ValueError, "one for each of 1 objects, got 2: give index"),
    ({"boxes": torch.rand(2, 5)}, ValueError, r"boxes must be \[G, 4\]"),
    ({"boxes": "abc"}, TypeError, "boxes must be a tensor"),
    ({"boxes": [[1, 2, 3]]}, TypeError, "boxes must be a tensor"),
    ({"index": torch.tensor([1])}, ValueError, "index must name objects from 0 to 0, got 1 to 1"),
    ({"index": torch.tensor([-1])}, ValueError, "index must name objects"),
    ({"index": torch.tensor([0, 0])}, ValueError, r"index must be \[G\] = \[1\]"),
    ({"index": torch.tensor([0.0])}, TypeError, "index must be integers"),
    ({"size": 0}, ValueError, "size must be an integer from 1"),
    ({"size": 2.5}, TypeError, "size must be an integer"),
]


@IN_BOXES
@pytest.mark.parametrize("changed, error, said", BAD)
def test_what_is_none(changed, error, said, column):
    with pytest.raises(error, match=said):
        column.call("rasterize_in_boxes", **{"polygons": [[SQUARE]], "boxes": torch.rand(1, 4), **changed})


def test_opcheck():
    objects, boxes = drawn(1, 4)
    found = _polygons.read(objects)
    torch.library.opcheck(torch.ops.htc_fast.rasterize.default, (*found, 40, 60))
    given = (*found, boxes.double(), torch.arange(4), 7, True)
    torch.library.opcheck(torch.ops.htc_fast.rasterize_in_boxes.default, given)
    assert torch.equal(torch.ops.htc_fast.rasterize_in_boxes(*given), ops.rasterize_in_boxes(objects, boxes, 7))
