"""Files with deformable convolutions: their names and keys tell which stages have them."""

import re

import pytest
import torch
from torch import nn

import htc_fast
from htc_fast import UserError
from htc_fast.models import zoo
from htc_fast.models.backbone import Backbone
from htc_fast.models.weights import fit, foreign
from htc_fast.models.weights.load import Report, load_weights, read
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same


@pytest.mark.parametrize("version", [1, 2])
def test_mmdetection_s_weights(version, tmp_path, monkeypatch):
    """The file says by its names which stages are deformable."""
    source = tiny("htc_r50", dcn=(3, 5))
    for key, one in source.named_parameters():
        if ".conv_offset." in key:
            nn.init.normal_(one)
    state = as_mmdetection(source.state_dict())
    if version == 1:
        state = {re.sub(r"\.(conv\d)\.conv_offset\.", r".\1_offset.", key): value for key, value in state.items()}
        assert "backbone.layer4.0.conv2_offset.bias" in state
    torch.save({"state_dict": state}, tmp_path / "dcn.pth")
    assert read(tmp_path / "dcn.pth").built["dcn"] == (3, 5)
    target = tiny("htc_r50", dcn=(3, 5))
    assert load_weights(target, tmp_path / "dcn.pth") == Report() and same(source, target)
    known = {name: zoo.config(name, backbone="test_resnet") for name in ("htc_r50", "htc_r50_dcn")}
    monkeypatch.setattr(zoo, "MODELS", known)
    made = htc_fast.create_model("htc_r50", num_classes=3, weights=tmp_path / "dcn.pth")
    assert made.config.dcn == (3, 5) and same(source, made)
    with pytest.raises(UserError, match=r"unexpected \(backbone.net.layer2.0.conv1.conv_offset.weight"):
        htc_fast.create_model("htc_r50", num_classes=3, weights=tmp_path / "dcn.pth", dcn=(5,))


def test_detectron2_s_weights():
    name, weight = "backbone.bottom_up.res5.0.conv2_offset.weight", torch.ones(18, 8, 3, 3)
    bias = name.replace("weight", "bias")
    state, _ = foreign.convert({name: weight, name.replace("_offset", ""): weight, bias: weight[:, 0, 0, 0]})
    block = "backbone.net.layer4.0.conv2"
    assert state.keys() == {f"{block}.conv_offset.weight", f"{block}.weight", f"{block}.conv_offset.bias"}
    assert fit.sizes(state) == {"dcn": (5,)}


def test_the_models_that_a_file_fits():
    with torch.device("meta"):
        tensors = Backbone("resnet50", False, 0, True, dcn=(5,)).state_dict()
    tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    assert fit.sizes(tensors) == {"dcn": (5,)}
    fitting = {}
    for name in ("htc_r50", "htc_r50_dcn", "htc_r50_dcn_syncbn"):
        config = zoo.config(name)
        fitting[name] = fit._is_backbone(fit._shapes(config.backbone, config.dcn), tensors)
    assert fitting == {"htc_r50": False, "htc_r50_dcn": True, "htc_r50_dcn_syncbn": True}
