"""Switches together that the paper never tried: they work, or say in one sentence why not."""

import pytest
import torch

from htc_fast.errors import UserError
from tests.criterion.test_family_losses import targets
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny

TOGETHER = {
    "guided anchors and long kernels": {"rpn": "ga", "gcn": True},
    "PANet with everything behind the pyramid": {
        "neck": "pafpn",
        "aspp": True,
        "adaptive_pooling": True,
        "mask_fc": True,
        "roi_pooling": "pr_roi_pool",
        "roi_aligned": False,
    },
    "all that Table 7 has and all that Table 8 has": {
        "dcn": (3, 4, 5),
        "norm": "syncbn",
        "norm_eval": False,
        "box_head": "4conv1fc",
        "rpn": "ga",
        "neck": "pafpn",
        "aspp": True,
        "gcn": True,
        "roi_pooling": "pr_roi_pool",
        "soft_nms": True,
        "class_agnostic": False,
    },
    "SCNet's parts and PANet's": {
        "interleaved": False,
        "information_flow": False,
        "sample_consistency": True,
        "feature_relay": True,
        "global_context": True,
        "adaptive_pooling": True,
        "mask_fc": True,
        "norm": "syncbn",
        "norm_eval": False,
        "box_head": "4conv1fc",
        "roi_pooling": "pr_roi_pool",
    },
}


@pytest.mark.parametrize("fields", TOGETHER.values(), ids=TOGETHER.keys())
def test_they_learn_and_detect(fields):
    model = tiny("htc_r50", **fields).train()
    images = torch.randn(3, 3, 64, 96)
    loss = sum(model.losses(images, SIZES, targets()).values())
    loss.backward()
    assert loss.isfinite() and all(
        one.grad.isfinite().all() for one in model.parameters() if one.grad is not None and one.requires_grad
    )
    found = model.eval().detect(images, SIZES)
    assert found.count.min() > 0 and found.boxes.shape == (3, 8, 4) and found.masks.isfinite().all()


def test_deformable_windows_are_refused():
    with pytest.raises(UserError, match=r"^dcn makes 3x3 convolutions deformable, and stage 5 of backbone 'swin_tiny"):
        tiny("htc_r50", backbone="swin_tiny_patch4_window7_224", dcn=(5,))


def test_long_kernels_without_a_semantic_branch_are_refused():
    with pytest.raises(UserError, match=r"^gcn is a part of the semantic branch, got semantic='none'"):
        tiny("htc_r50_nosem", gcn=True)
