"""mmdetection's DetectoRS files: the peers' names written out, and a round trip of a whole made-up file."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import htc_fast
from htc_fast import UserError
from htc_fast.models import zoo
from htc_fast.models.config import Model
from htc_fast.models.standardised import StandardisedConv2d
from htc_fast.models.weights import detectors, fit, foreign
from htc_fast.models.weights.load import Report, load_weights, read
from tests.models.test_rfp import trained
from tests.models.test_standardised import defined
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same

# As DetectoRS_ResNet, RFP, SAConv2d and ConvAWS2d register them, and ours.
NAMES = {
    "backbone.conv1.weight": "backbone.net.conv1.weight",
    "backbone.conv1.weight_gamma": "backbone.net.conv1.weight_std",
    "backbone.conv1.weight_beta": "backbone.net.conv1.weight_mean",
    "backbone.bn1.running_var": "backbone.net.bn1.running_var",
    "backbone.layer1.0.downsample.0.weight_gamma": "backbone.net.layer1.0.downsample.0.weight_std",
    "backbone.layer2.0.conv2.weight": "backbone.net.layer2.0.conv2.weight",
    "backbone.layer2.0.conv2.weight_gamma": "backbone.net.layer2.0.conv2.weight_std",
    "backbone.layer2.0.conv2.weight_beta": "backbone.net.layer2.0.conv2.weight_mean",
    "backbone.layer2.0.conv2.weight_diff": "backbone.net.layer2.0.conv2.weight_difference",
    "backbone.layer2.0.conv2.switch.weight": "backbone.net.layer2.0.conv2.switch.weight",
    "backbone.layer2.0.conv2.switch.bias": "backbone.net.layer2.0.conv2.switch.bias",
    "backbone.layer2.0.conv2.pre_context.weight": "backbone.net.layer2.0.conv2.pre_context.weight",
    "backbone.layer2.0.conv2.pre_context.bias": "backbone.net.layer2.0.conv2.pre_context.bias",
    "backbone.layer2.0.conv2.post_context.weight": "backbone.net.layer2.0.conv2.post_context.weight",
    "backbone.layer2.0.conv2.post_context.bias": "backbone.net.layer2.0.conv2.post_context.bias",
    "backbone.layer2.0.conv2.offset_s.weight": "backbone.net.layer2.0.conv2.near_offset.weight",
    "backbone.layer2.0.conv2.offset_s.bias": "backbone.net.layer2.0.conv2.near_offset.bias",
    "backbone.layer2.0.conv2.offset_l.weight": "backbone.net.layer2.0.conv2.far_offset.weight",
    "backbone.layer2.0.conv2.offset_l.bias": "backbone.net.layer2.0.conv2.far_offset.bias",
    "neck.lateral_convs.0.conv.weight": "fpn.lateral.0.weight",
    "neck.rfp_modules.0.conv1.weight": "rfp.backbones.0.net.conv1.weight",
    "neck.rfp_modules.0.conv1.weight_gamma": "rfp.backbones.0.net.conv1.weight_std",
    "neck.rfp_modules.0.bn1.weight": "rfp.backbones.0.net.bn1.weight",
    "neck.rfp_modules.0.layer1.0.downsample.1.running_mean": "rfp.backbones.0.net.layer1.0.downsample.1.running_mean",
    "neck.rfp_modules.0.layer2.0.rfp_conv.weight": "rfp.backbones.0.net.layer2.0.feedback.weight",
    "neck.rfp_modules.0.layer2.0.rfp_conv.bias": "rfp.backbones.0.net.layer2.0.feedback.bias",
    "neck.rfp_modules.0.layer4.1.conv2.weight_diff": "rfp.backbones.0.net.layer4.1.conv2.weight_difference",
    "neck.rfp_modules.0.layer4.1.conv2.weight_beta": "rfp.backbones.0.net.layer4.1.conv2.weight_mean",
    "neck.rfp_modules.0.layer4.1.conv2.offset_s.bias": "rfp.backbones.0.net.layer4.1.conv2.near_offset.bias",
    "neck.rfp_modules.0.layer4.1.conv2.offset_l.weight": "rfp.backbones.0.net.layer4.1.conv2.far_offset.weight",
    "neck.rfp_modules.0.layer4.1.conv2.switch.bias": "rfp.backbones.0.net.layer4.1.conv2.switch.bias",
    "neck.rfp_aspp.aspp.0.weight": "rfp.aspp.branches.0.weight",
    "neck.rfp_aspp.aspp.1.bias": "rfp.aspp.branches.1.bias",
    "neck.rfp_aspp.aspp.2.weight": "rfp.aspp.branches.2.weight",
    "neck.rfp_aspp.aspp.3.weight": "rfp.aspp.pooled.weight",
    "neck.rfp_weight.weight": "rfp.gate.weight",
    "neck.rfp_weight.bias": "rfp.gate.bias",
}
BACK = (
    (r"^rfp\.backbones\.(\d)\.net\.", r"neck.rfp_modules.\1."),
    (r"^rfp\.aspp\.branches\.", "neck.rfp_aspp.aspp."),
    (r"^rfp\.aspp\.pooled\.", "neck.rfp_aspp.aspp.3."),
    (r"^rfp\.gate\.", "neck.rfp_weight."),
    (r"\.feedback\.", ".rfp_conv."),
    (r"\.weight_std$", ".weight_gamma"),
    (r"\.weight_mean$", ".weight_beta"),
    (r"\.weight_difference$", ".weight_diff"),
    (r"\.near_offset\.", ".offset_s."),
    (r"\.far_offset\.", ".offset_l."),
)


def as_peers(state):
    """Our names as mmdetection's DetectoRS has them."""
    out = {}
    for key, value in as_mmdetection(state).items():
        for pattern, name in BACK:
            key = re.sub(pattern, name, key)
        out[key] = value
    return out


def test_names():
    found, _ = foreign.convert({name: torch.ones(1) for name in NAMES})
    assert list(found) == list(NAMES.values())
    assert fit.sizes({name: torch.ones(1, 1) for name in found}) == {"sac": (3,), "fpn_steps": 2}


def test_the_names_are_the_model_s():
    """The literal names are those that a model's own become, and none of them is made up."""
    with torch.device("meta"):
        state = as_peers(tiny("detectors_htc_r50", backbone="resnet26").state_dict())
    assert NAMES.keys() <= state.keys()


@pytest.mark.parametrize("name", ["detectors_htc_r50", "detectors_htc_r50_sac", "detectors_htc_r50_rfp"])
def test_round_trip(name, tmp_path, monkeypatch):
    source = trained(name)
    state = as_peers(source.state_dict())
    assert not any("rfp." in key or "weight_std" in key or "near_offset" in key for key in state)
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {}}, tmp_path / "detectors.pth")
    built = read(tmp_path / "detectors.pth").built
    assert built.get("sac", ()) == source.config.sac and built.get("fpn_steps", 1) == source.config.fpn_steps
    target = tiny(name)
    for one in (*target.parameters(), *target.buffers()):
        one.data.zero_()
    assert load_weights(target, tmp_path / "detectors.pth") == Report() and same(source, target)
    # The file says by its names what it needs, whatever model of HTC's is asked for.
    made = htc_fast.create_model("htc_r50", num_classes=3, weights=tmp_path / "detectors.pth", backbone="test_resnet")
    assert same(source, made) and made.config.sac == source.config.sac
    zoo_names = ("htc_r50", "detectors_htc_r50", "detectors_htc_r50_sac", "detectors_htc_r50_rfp")
    monkeypatch.setattr(zoo, "MODELS", {one: zoo.config(one, backbone="test_resnet") for one in zoo_names})
    assert fit.fitting(read(tmp_path / "detectors.pth").tensors) == [name]
    with pytest.raises(UserError, match=f"another architecture than htc_r50: .*it fits {name}"):
        load_weights(htc_fast.create_model("htc_r50", num_classes=3, channels=16), tmp_path / "detectors.pth")


def test_our_own_file_knows_the_number_of_steps():
    names = [f"rfp.backbones.{step}.net.conv1.weight" for step in (0, 1)]
    assert detectors.shown(names) == {"fpn_steps": 3} and detectors.shown(["backbone.net.conv1.weight"]) == {}


@torch.no_grad()
def test_standardised_layers_that_read_bgr_read_rgb():
    """Of both steps: what they compute from the other order and scale is the same."""
    recipe = "mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False"
    steps, state = ("backbone.", "neck.rfp_modules.0."), {}
    for step in steps:
        shapes = {"weight": (8, 3, 7, 7), "weight_gamma": (8, 1, 1, 1), "weight_beta": (8, 1, 1, 1)}
        state |= {f"{step}conv1.{name}": torch.rand(shape) - 0.3 for name, shape in shapes.items()}
    pixels = torch.rand(1, 3, 32, 64) * 255
    caffe = pixels.flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    ours = (pixels - torch.tensor(Model.mean)[:, None, None]) / torch.tensor(Model.std)[:, None, None]
    found, options = foreign.convert(dict(state), recipe=recipe)
    assert options == {}
    for before, after in zip(steps, ("backbone.net.", "rfp.backbones.0.net.")):
        tensors = [state[f"{before}conv1.{name}"] for name in ("weight", "weight_gamma", "weight_beta")]
        want = F.conv2d(caffe, defined(*tensors), padding=3)
        layer = StandardisedConv2d(nn.Conv2d(3, 8, 7, padding=3, bias=False))
        names = ("weight", "weight_std", "weight_mean")
        layer.load_state_dict({name: found[f"{after}conv1.{name}"] for name in names})
        torch.testing.assert_close(layer(ours), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
