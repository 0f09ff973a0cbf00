"""`detect` never waits for the device: its exported graph has no size, index or copy that depends on data."""

import pytest
import torch

from htc_fast.models.structures import Detections
from tests.models.test_zoo import tiny

WAITS = ("item", "_local_scalar_dense", "nonzero", "masked_select", "unique", "_to_copy", "is_nonzero")
VARIANTS = {
    "htc": ("htc_r50", {}),
    "no semantic": ("htc_r50_nosem", {}),
    "one stage, box per class": ("mask_rcnn_r50", {}),
    "box fusion": ("cascade_mask_r50_sem_bbox", {}),
    "second stage alone": ("htc_r50", {"test_stage": 2}),
}


class Detect(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, image_sizes):
        return self.model.detect(images, image_sizes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_has_fixed_shapes_and_no_waits(variant):
    name, overrides = VARIANTS[variant]
    model = tiny(name, **overrides).eval()
    example = torch.randn(1, 3, 64, 96), torch.tensor([[60, 90]])
    program = torch.export.export(Detect(model), example, strict=False)
    for node in program.graph.nodes:
        words = str(node.target).replace("::", ".").split(".")
        assert not any(word in WAITS for word in words), f"{node.target} waits"
        if "index" in words and node.op == "call_function":
            for index in node.args[1]:
                assert index is None or index.meta["val"].dtype != torch.bool, "boolean indexing"
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            assert all(isinstance(side, int) for side in value.shape), f"{node.target} has a size that depends on data"
    found, want = program.module()(*example), model.detect(*example)
    assert isinstance(found, Detections)
    assert torch.equal(found.labels, want.labels)
    torch.testing.assert_close(found.boxes, want.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.masks, want.masks, rtol=1e-4, atol=1e-4)
