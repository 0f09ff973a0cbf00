"""Instances to supervision's Detections and back: no pixel lost."""

import importlib.util

import numpy as np
import pytest
import torch

if importlib.util.find_spec("supervision") is None:
    pytest.skip("supervision is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

import supervision

from htc_fast.data.instances import Instances
from htc_fast.integrations.supervision import from_detections, to_detections
from htc_fast.ops import encode_logits
from tests.integrations import rle_cases as cases

SIZE = 61, 83


def found(names=("cat", "dog")):
    maps = cases.smooth(6, 20, 20, 5)
    maps[3], maps[4] = -1, 1  # nothing, and everything
    boxes = torch.tensor([[1.5, 2.0, 40.25, 50.0]]).repeat(6, 1)
    return Instances(
        boxes, torch.linspace(0.9, 0.1, 6), torch.tensor([0, 1, 1, 0, 1, 0]), encode_logits(maps, SIZE), SIZE, names
    )


@pytest.mark.parametrize("compact", [True, False])
def test_there_and_back(compact):
    before = found()
    between = to_detections(before, compact)
    assert np.array_equal(np.asarray(between.mask), cases.masks(before.rle))
    assert between.mask.shape == (6, *SIZE) and isinstance(between.mask, np.ndarray) is not compact
    assert between.data["class_name"].tolist() == ["cat", "dog", "dog", "cat", "dog", "cat"]
    after = from_detections(between)
    assert cases.counts(after.rle) == cases.counts(before.rle) and after.size == SIZE
    assert torch.equal(after.boxes, before.boxes) and torch.equal(after.scores, before.scores)
    assert torch.equal(after.labels, before.labels) and after.class_names == ["cat", "dog"]


def test_compact_masks_are_supervisions_own():
    before = found()
    ours = to_detections(before).mask
    assert ours.area.tolist() == cases.masks(before.rle).sum(axis=(1, 2)).tolist()
    assert np.array_equal(ours.crop(4), np.ones(SIZE, bool)) and ours.crop(3).shape == (1, 1)
    theirs = supervision.detection.compact_mask.CompactMask.from_dense(
        cases.masks(before.rle[:1]), ours.bbox_xyxy[:1], SIZE
    )
    assert ours[[0]] == theirs


def test_their_filters_and_tools_take_them():
    between = to_detections(found())
    some = from_detections(between[between.class_id == 1])
    assert len(some) == 3 and some.labels.tolist() == [1, 1, 1]
    assert len(between.with_nms(threshold=0.05, class_agnostic=True)) < 6


def test_without_names_scores_or_anything():
    plain = supervision.Detections(xyxy=np.array([[0, 0, 4, 4.0]]), mask=np.ones((1, 5, 6), bool))
    alone = from_detections(plain)
    assert alone.scores.tolist() == [1] and alone.labels.tolist() == [0] and alone.name(0) and alone.size == (5, 6)
    none = to_detections(found(())[[]])
    assert len(none) == 0 and len(from_detections(none)) == 0
    assert from_detections(supervision.Detections.empty(), SIZE).size == SIZE
    with pytest.raises(ValueError, match="give image_size"):
        from_detections(supervision.Detections.empty())
    with pytest.raises(ValueError, match=r"masks of 5 x 6, but image_size is \(7, 6\)"):
        from_detections(plain, (7, 6))
