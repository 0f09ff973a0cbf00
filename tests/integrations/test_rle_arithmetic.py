"""What the adapters of mask outputs count, written out; none of the packages is needed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from htc_fast.integrations import rfdetr, transformers, ultralytics
from tests.integrations import rle_cases as cases


def test_where_a_letterbox_has_its_picture():
    assert ultralytics.content((640, 640), (1080, 1920)) == (0, 140, 640, 500)
    assert ultralytics.content((384, 640), (1080, 1920)) == (0, 12, 640, 372)
    # 427 columns leave 213: 106 on the left, 107 on the right.
    assert ultralytics.content((640, 640), (960, 640)) == (106, 0, 533, 640)


def test_yolo_by_hand():
    # Two rows of padding above and below two rows of picture; the box is its left half.
    prototypes = torch.tensor([[[9.0] * 4, [1] * 4, [1] * 4, [9] * 4]])
    row = torch.tensor([[0.0, 4, 8, 12, 0.5, 1, 1], [0, 4, 16, 12, 0.75, 0, -1], [8, 4, 16, 8, 0.25, 2, 1]])
    found = ultralytics.instances(row, prototypes, (16, 16), (4, 8), ("a", "b", "c"))
    # The second has no pixel.
    assert found.scores.tolist() == [0.5, 0.25] and found.labels.tolist() == [1, 2] and found.name(0) == "b"
    assert found.boxes.tolist() == [[0, 0, 4, 4], [4, 0, 8, 2]]
    left, corner = cases.masks(found.rle)
    assert left[:, :4].all() and not left[:, 4:].any() and corner[:2, 4:].all() and corner.sum() == 8
    kept = ultralytics.instances(row, prototypes, (16, 16), (4, 8), empty=True)
    assert kept.scores.tolist() == [0.75, 0.5, 0.25] and not cases.masks(kept.rle)[0].any()
    with pytest.raises(ValueError, match=r"predictions must be \[K, 7\] beside these prototypes, got \[3, 6\]"):
        ultralytics.instances(row[:, :6], prototypes, (16, 16), (4, 8))


def test_rfdetr_by_hand():
    outputs = {
        "pred_logits": torch.tensor([[[0.0, 3.0], [2.0, -9.0]]]),
        "pred_boxes": torch.tensor([[[0.5, 0.5, 0.5, 1.0], [0.9, 0.5, 0.4, 0.5]]]),
        "pred_masks": torch.stack([torch.ones(2, 2), torch.tensor([[1.0, -3], [1, -3]])])[None],
    }
    [found] = rfdetr.instances(outputs, [(4, 8)], num_select=3)
    expected = [1 / (1 + math.exp(-one)) for one in (3, 2, 0)]
    assert found.scores.tolist() == pytest.approx(expected) and found.labels.tolist() == [1, 0, 0]
    assert found.boxes.tolist() == pytest.approx(np.array([[2, 0, 6, 4], [5.6, 1, 8, 3], [2, 0, 6, 4]]), abs=1e-5)
    whole, part, again = cases.masks(found.rle)
    # 1 becomes -3 over four columns: above 0 for a quarter of them.
    assert whole.all() and again.all() and part.sum(axis=1).tolist() == [3] * 4
    [few] = rfdetr.instances(outputs, torch.tensor([[4, 8]]), threshold=0.6)
    assert len(few) == 2
    with pytest.raises(ValueError, match="target_sizes must be height, width of each of 1 pictures"):
        rfdetr.instances(outputs, [(4, 8), (4, 8)])
    with pytest.raises(KeyError, match="pred_masks"):
        rfdetr.instances({"pred_logits": outputs["pred_logits"]}, [(4, 8)])


@pytest.mark.parametrize("way", ["once", "twice"])
@pytest.mark.parametrize("find", [transformers.mask2former_instances, transformers.eomt_instances])
def test_queries_by_hand(find, way):
    likely = torch.tensor([[[9.0, 0, 0], [0, 0, 9], [0, 9, 0], [9, 0, 0]]])
    maps = torch.tensor([5.0, 5, -5, 0.01])[None, :, None, None].expand(1, 4, 8, 8)
    outputs = SimpleNamespace(class_queries_logits=likely, masks_queries_logits=maps)
    # The second is nothing by its class, the third has no pixel, the fourth is not sure of any: 0.5.
    [found] = find(outputs, [(6, 10)], threshold=0.7, resize=way)
    share = math.exp(9) / (math.exp(9) + 2) / (1 + math.exp(-5))
    assert found.scores.tolist() == pytest.approx([share], abs=1e-5) and found.labels.tolist() == [0]
    assert found.boxes.tolist() == [[0, 0, 10, 6]] and cases.masks(found.rle).all()
    [none] = find(outputs, [(6, 10)], threshold=0.9999, resize=way)
    assert len(none) == 0 and none.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="unknown resize 'never'"):
        find(outputs, [(6, 10)], resize="never")


def test_a_picture_in_the_input():
    assert transformers.fitted((1080, 1920), (640, 640)) == (360, 640)
    assert transformers.fitted((640, 427), (640, 640)) == (640, 427)
    assert transformers.fitted((100, 50), (800, 1333)) == (1333, 666)
