"""Instances: selection, masks, COCO results."""

import json

import numpy as np
import pytest
import torch

from htc_fast import UserError
from htc_fast.data.instances import Instances
from htc_fast.data.masks import from_bitmaps


def three():
    bitmaps = np.zeros((3, 12, 16), dtype=np.uint8)
    bitmaps[0, 2:6, 3:9] = bitmaps[1, 5:, 5:] = bitmaps[2, :1, :1] = 1
    boxes = torch.tensor([[3.0, 2, 9, 6], [5, 5, 16, 12], [0, 0, 1, 1]])
    labels = torch.tensor([1, 0, 7])
    return bitmaps, Instances(boxes, torch.tensor([0.9, 0.5, 0.1]), labels, from_bitmaps(bitmaps), (12, 16), ["a", "b"])


def test_masks_and_names():
    bitmaps, found = three()
    assert (found.masks.numpy() == bitmaps).all() and found.masks.dtype == torch.bool
    assert found.areas.tolist() == [24, 77, 1]
    assert [found.name(i) for i in range(3)] == ["b", "a", "class 8"]


def test_selection():
    _, found = three()
    for keep in (slice(0, 2), found.scores > 0.3, [0, 1], torch.tensor([0, 1])):
        part = found[keep]
        assert len(part) == 2 and part.labels.tolist() == [1, 0] and part.areas.tolist() == [24, 77]
    none = found[found.scores > 1]
    assert len(none) == 0 and none.masks.shape == (0, 12, 16) and none.boxes.shape == (0, 4)
    assert found[1].labels.tolist() == [0] and [len(one) for one in found] == [1, 1, 1]


def test_selection_by_anything():
    _, found = three()
    for keep in ((0, 2), np.array([True, False, True]), [True, False, True], range(0, 3, 2), np.array([0, -1])):
        assert found[keep].labels.tolist() == [1, 7]
    assert found[::-1].labels.tolist() == [7, 0, 1] and found[np.array([])].labels.tolist() == []
    for wrong in (3, [0, 9], 1.0, "a", None, torch.tensor([True]), torch.tensor([1, 0, 1], dtype=torch.uint8)):
        with pytest.raises(IndexError, match=r"out of bounds|expected a slice, a bool mask \[3\] or whole numbers"):
            found[wrong]


def test_coco_results():
    _, found = three()
    results = json.loads(json.dumps(found[:2].to_coco("x", [30, 90])))
    assert results[0]["bbox"] == [3, 2, 6, 4] and results[0]["category_id"] == 90 and results[0]["image_id"] == "x"
    assert [item["category_id"] for item in found.to_coco(5)] == [2, 1, 8]
    with pytest.raises(UserError, match="label 7 has no id: got 2 category_ids"):
        found.to_coco(5, [30, 90])
    found.labels[2] = -1
    assert found.name(2) == "label -1", "padding is no class"
    assert results[1]["segmentation"]["size"] == [12, 16] and results[1]["score"] == 0.5
