"""Every model that has a name learns: its losses are finite and reach all that is trained."""

import pytest
import torch

import htc_fast
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
    # A backbone's residual blocks start as the identity; of the rest every layer moves.
    assert [key for key, grad in trained.items() if not key.startswith("backbone.") and not grad.any()] == []
