"""Every model that has a name learns: its losses are finite and reach all that is trained."""

import pytest
import torch

import htc_fast
from htc_fast.inference import optimize
from htc_fast.models import zoo
from tests.criterion.test_family_losses import targets
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny

TERMS = {"rpn_class", "rpn_box"}


@pytest.mark.parametrize("name", htc_fast.list_models())
def test_every_model_learns(name):
    # Every level has anchors that count, also those larger than the picture.
    fields = {"rpn_allowed_border": -1.0, "rpn_samples": 2000, "rpn_positive_fraction": 0.1, "samples": 32}
    model = tiny(name, rpn_train_proposals_per_level=100, rpn_train_proposals=60, **fields).train()
    terms = model.losses(torch.randn(3, 3, 64, 96), SIZES, targets())
    assert terms.keys() >= TERMS and all(one.isfinite() for one in terms.values())
    sum(terms.values()).backward()
    trained = {key: one.grad for key, one in model.named_parameters() if one.requires_grad}
    # What an auxiliary branch would give to boxes and masks, nobody takes.
    unused = {f"semantic_head.embedding.{one}" for one in ("weight", "bias") if model.config.semantic == "loss"}
    assert {key for key, grad in trained.items() if grad is None} == unused
    trained = {key: grad for key, grad in trained.items() if key not in unused}
    assert all(grad.isfinite().all() for grad in trained.values())
    # A backbone's residual blocks start as the identity, and a recursion's feedback as zero; of the rest every layer
    # moves.
    still = ("backbone.", "rfp.backbones.", "rfp.aspp.")
    assert [key for key, grad in trained.items() if not key.startswith(still) and not grad.any()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in zoo.MODELS.items() if one.dcn and one.backbone != "resnet50"])
def test_table_7_with_its_own_backbones(name):
    """Each switch on the backbone that it is meant for: a step of training, detections, an optimized copy."""
    model = tiny(name, backbone=zoo.MODELS[name].backbone, rpn_train_proposals=60, samples=32).train()
    sum(model.losses(torch.randn(3, 3, 64, 96), SIZES, targets()).values()).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters() if one.requires_grad)
    found, images = model.eval().detect(torch.randn(1, 3, 64, 96), SIZES[1:2]), torch.randn(1, 3, 64, 96)
    assert found.masks.shape == (1, 8, 28, 28) and found.scores.isfinite().all()
    fast = optimize(model, (64, 96), dtype=torch.float32)
    for one, other in zip(fast.network.extract(images), model.extract(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.detach().abs().max()))
