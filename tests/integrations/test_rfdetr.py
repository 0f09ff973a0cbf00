"""RF-DETR's instances beside rfdetr's own PostProcess."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("rfdetr") is None:
    pytest.skip("rfdetr is not installed", allow_module_level=True)

from rfdetr.models.postprocess import PostProcess

from htc_fast.integrations.rfdetr import instances
from tests.integrations import rle_cases as cases


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_detections_and_masks_are_theirs(threshold):
    generator = torch.Generator().manual_seed(3)
    outputs = {
        "pred_logits": torch.randn(2, 12, 5, generator=generator),
        "pred_boxes": torch.rand(2, 12, 4, generator=generator),
        "pred_masks": torch.stack([cases.smooth(12, 27, 27, seed) for seed in cases.SEEDS]),
    }
    sizes = torch.tensor([[120, 90], [77, 200]])
    theirs = PostProcess(num_select=20)(outputs, sizes, threshold)
    ours = instances(outputs, sizes, num_select=20, threshold=threshold)
    assert len(ours) == 2
    for their, our in zip(theirs, ours, strict=True):
        assert len(our) == len(their["scores"]) > 5
        assert torch.equal(our.scores, their["scores"]) and torch.equal(our.labels, their["labels"])
        assert torch.allclose(our.boxes, their["boxes"], atol=1e-4)
        assert cases.counts(our.rle) == cases.strings(their["masks"][:, 0])
