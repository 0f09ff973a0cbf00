"""Backbones of timm: those that take every size a detector feeds, and one sentence for the others."""

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from htc_fast import UserError, create_model
from htc_fast.models.backbone import Backbone

REFUSED = {
    "test_maxvit": r"height \(8\) must be divisible by window",
    "test_coatnet": "size of tensor",
    "coat_lite_tiny": r"Input height \(32\) doesn't match model \(224\)",
    "halonet26t": "timm's code asserts another size",
    "mobilevitv2_050": r"its features are .*\[1, 256, 2, 6\]\] instead of .*\[1, 256, 1, 5\]\]",
    "legacy_xception": r"its features are \[\[1, 128, 7, 39\]",
    "mvitv2_tiny": "with 256 x 320 pixels: index 111 is out of bounds",
    "vit_tiny_patch16_224": "lacks",
    "no_such_net": "unknown backbone",
}


@pytest.mark.parametrize("name, sentence", REFUSED.items())
def test_backbones_of_certain_sizes_alone(name, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        Backbone(name, pretrained=False, frozen_stages=0, norm_eval=False)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"])
@torch.no_grad()
def test_backbones_of_any_size(name):
    backbone = Backbone(name, pretrained=False, frozen_stages=0, norm_eval=False)
    assert all(module.training for module in backbone.modules())
    for key, value in backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 0, "the trial leaves batch norms alone"
    for height, width in ((64, 96), (128, 160)):
        maps = backbone.eval()(torch.randn(2, 3, height, width))
        shapes = [list(one.shape) for one in maps]
        assert shapes == [[2, c, height // s, width // s] for c, s in zip(backbone.channels, (4, 8, 16, 32))]


def test_a_trial_draws_no_random_numbers():
    torch.manual_seed(0)
    timm.create_model("test_resnet", features_only=True, pretrained=False)
    after = torch.rand(3)
    torch.manual_seed(0)
    Backbone("test_resnet", pretrained=False, frozen_stages=0, norm_eval=False)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no network\nsecond line"), OSError(), SafetensorError("cut")]
)
def test_weights_that_cannot_be_had(error, monkeypatch):
    def create(*_, **options):
        assert options["pretrained"]
        raise error

    monkeypatch.setattr(timm, "create_model", create)
    sentence = r"^the ImageNet weights of resnet50 cannot be had \((no network|OSError|cut)\): go online once, or start"
    with pytest.raises(UserError, match=sentence) as caught:
        create_model("htc_r50", pretrained=True)
    assert "\n" not in str(caught.value) and "--no-pretrained" in str(caught.value)
