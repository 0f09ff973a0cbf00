"""Instances: selection, masks, COCO results."""

import json

import numpy as np
import torch

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
    assert [found.name(i) for i in range(3)] == ["b", "a", "class 7"]


def test_selection():
    _, found = three()
    for keep in (slice(0, 2), found.scores > 0.3, [0, 1], torch.tensor([0, 1])):
        part = found[keep]
        assert len(part) == 2 and part.labels.tolist() == [1, 0] and part.areas.tolist() == [24, 77]
    none = found[found.scores > 1]
    assert len(none) == 0 and none.masks.shape == (0, 12, 16) and none.boxes.shape == (0, 4)
    assert found[1].labels.tolist() == [0]


def test_coco_results():
    _, found = three()
    results = json.loads(json.dumps(found[:2].to_coco("x", [30, 90])))
    assert results[0]["bbox"] == [3, 2, 6, 4] and results[0]["category_id"] == 90 and results[0]["image_id"] == "x"
    assert [item["category_id"] for item in found.to_coco(5)] == [2, 1, 8]
    assert results[1]["segmentation"]["size"] == [12, 16] and results[1]["score"] == 0.5
