"""Stochastic depth: which rates blocks have, when they are dropped, and which backbones have none."""

import pytest
import torch

from htc_fast import UserError
from htc_fast.inference import optimize
from htc_fast.models.backbone import Backbone
from htc_fast.models.drop_path import paths_of
from tests.inference.test_fuse import settled
from tests.models.test_zoo import tiny


def test_rates_grow_linearly():
    """By blocks, of which the first is never dropped; each has one for its attention and one behind."""
    made = Backbone("swin_tiny_patch4_window7_224", False, -1, True, drop_path=0.22)
    rates = [path.drop_prob for path in paths_of(made.net)]
    assert rates == pytest.approx([0.02 * block for block in range(1, 12) for _ in range(2)])
    rates = [path.drop_prob for path in paths_of(Backbone("resnet18", False, -1, True, drop_path=0.35).net)]
    assert rates == pytest.approx([0.05 * block for block in range(1, 8)])


def test_without_it_nothing_is_dropped():
    """Whatever timm's own default: a Swin's is 0.1."""
    made = Backbone("swin_tiny_patch4_window7_224", False, -1, True).train()
    assert paths_of(made.net) and not any(path.drop_prob for path in paths_of(made.net))


def test_blocks_are_dropped_in_training_alone():
    model = tiny("htc_r50", backbone="resnet18", drop_path=0.9, frozen_stages=0, norm_eval=True)
    plain = tiny("htc_r50", backbone="resnet18", frozen_stages=0)
    settled(model.backbone)  # residual blocks start as the identity
    plain.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 64, 96)
    assert torch.equal(model.eval().backbone(images)[-1], plain.eval().backbone(images)[-1])
    torch.manual_seed(0)
    first, again = (model.train().backbone(images)[-1] for _ in range(2))
    assert not torch.equal(first, again)
    # A sample goes through, over the share of those that do, or not at all.
    path, ones = paths_of(model.backbone.net)[-1], torch.ones(1000, 1, 1, 1)
    values = path(ones).flatten()
    assert path.drop_prob == pytest.approx(0.9)
    assert set(values.round(decimals=3).tolist()) == {0.0, 10.0} and 0.05 < (values > 0).float().mean() < 0.15


@torch.no_grad()
def test_an_optimized_copy_drops_nothing():
    model = tiny("htc_r50", drop_path=0.9).train()
    sizes, images = torch.tensor([[64, 96]]), torch.randn(1, 3, 64, 96)
    found = optimize(model, (64, 96), dtype=torch.float32).detect(images, sizes)
    torch.testing.assert_close(found.scores, model.eval().detect(images, sizes).scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fishnet150", "dpn68", "vgg11"])
def test_backbones_without(name):
    sentence = rf"^drop_path drops residual blocks .* timm's '{name}' cannot do that: .* or set drop_path=0\.$"
    with pytest.raises(UserError, match=sentence):
        Backbone(name, False, -1, True, drop_path=0.1)
