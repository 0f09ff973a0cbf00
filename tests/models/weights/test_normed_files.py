"""Files of detectors with batch norms in their heads, and with convolutions in the box heads: ours and others'."""

import re

import pytest
import torch

import htc_fast
from htc_fast.models import zoo
from htc_fast.models.weights import fit, foreign
from htc_fast.models.weights.load import Report, load_weights, read
from htc_fast.training.checkpoint import weights_bytes
from tests.inference.test_fuse import settled
from tests.models.test_zoo import TINY, tiny
from tests.models.weights.test_load import as_mmdetection, same

# mmdetection's names (a convolution and its norm are one module) and ours.
NAMES = {
    "neck.lateral_convs.0.conv.weight": "fpn.lateral.0.weight",
    "neck.lateral_convs.0.bn.weight": "fpn.lateral.0.norm.weight",
    "neck.fpn_convs.3.bn.running_mean": "fpn.output.3.norm.running_mean",
    "roi_head.bbox_head.0.shared_convs.0.conv.weight": "box_heads.0.convs.0.weight",
    "roi_head.bbox_head.2.shared_convs.3.bn.bias": "box_heads.2.convs.3.norm.bias",
    "roi_head.bbox_head.1.shared_fcs.0.weight": "box_heads.1.fc1.weight",
    "roi_head.mask_head.0.convs.0.bn.running_var": "mask_heads.0.convs.0.norm.running_var",
    "roi_head.mask_head.1.conv_res.conv.weight": "mask_heads.1.flow.weight",
    "roi_head.mask_head.1.conv_res.bn.weight": "mask_heads.1.flow.norm.weight",
    "roi_head.semantic_head.lateral_convs.4.bn.weight": "semantic_head.lateral.4.norm.weight",
    "roi_head.semantic_head.convs.3.bn.bias": "semantic_head.convs.3.norm.bias",
    "roi_head.semantic_head.conv_embedding.bn.weight": "semantic_head.embedding.norm.weight",
    "backbone.layer1.0.bn1.weight": "backbone.net.layer1.0.bn1.weight",
    "backbone.bn1.bias": "backbone.net.bn1.bias",
}


def test_mmdetection_s_names():
    found = foreign.from_mmdetection({key: torch.tensor(float(place)) for place, key in enumerate(NAMES)})
    assert {key: int(value) for key, value in found.items()} == {key: place for place, key in enumerate(NAMES.values())}


def test_version_1_has_its_heads_at_the_top():
    old = {key.removeprefix("roi_head."): torch.tensor(float(place)) for place, key in enumerate(NAMES)}
    found = foreign.from_mmdetection({key: value[None].expand(8) for key, value in old.items()})
    assert list(found) == list(NAMES.values())


def test_a_model_is_built_as_the_file_tells(tmp_path):
    source = settled(tiny("htc_r50_syncbn"))
    state = as_mmdetection(source.state_dict())
    assert "roi_head.mask_head.1.conv_res.bn.running_mean" in state and not any(".norm." in key for key in state)
    # The first head's flow is in the files of older versions, and leads nowhere.
    extra = {"roi_head.mask_head.0.conv_res.conv.weight": torch.ones(16, 16, 1, 1)}
    extra["roi_head.mask_head.0.conv_res.bn.weight"] = torch.ones(16)
    torch.save({"state_dict": {**state, **extra}}, tmp_path / "model.pth")
    made = htc_fast.create_model("htc_r50", num_classes=3, weights=tmp_path / "model.pth", backbone="test_resnet")
    assert (made.config.norm, made.config.box_head, made.config.channels) == ("syncbn", "4conv1fc", 16)
    assert same(source, made)
    assert load_weights(tiny("htc_r50_syncbn"), tmp_path / "model.pth") == Report()
    report = load_weights(tiny("htc_r50"), tmp_path / "model.pth", strict=False)
    assert "fpn.lateral.0.bias" in report.missing and "fpn.lateral.0.norm.weight" in report.unexpected


def test_our_own_file(tmp_path):
    source, path = settled(tiny("htc_r50", norm="syncbn")), tmp_path / "model.safetensors"
    path.write_bytes(weights_bytes(source, 1))
    made = htc_fast.load(path, device="cpu")
    assert made.config == source.config and same(source, made)


NORM, CONVOLUTIONS = {"norm": "syncbn"}, {"box_head": "4conv1fc"}


@pytest.mark.parametrize("options", [{}, NORM, CONVOLUTIONS, NORM | CONVOLUTIONS])
def test_the_names_that_fit(options):
    small = {key: value for key, value in TINY.items() if key != "backbone"}
    with torch.device("meta"):
        model = htc_fast.create_model("htc_r50", **{**small, **options})
    names = fit.fitting(model.state_dict())
    wanted = options.get("norm", "none"), options.get("box_head", "2fc")
    assert all((zoo.config(name).norm, zoo.config(name).box_head) == wanted for name in names)
    assert ("htc_r50" in names) == (not options) and ("htc_r50_syncbn" in names) == (len(options) == 2)


def test_detectron2_s_names():
    """Its norms are children of the convolutions, as ours."""
    names = {
        "backbone.fpn_lateral2.norm.weight": "fpn.lateral.0.norm.weight",
        "backbone.fpn_output5.norm.bias": "fpn.output.3.norm.bias",
        "roi_heads.box_head.conv1.weight": "box_heads.0.convs.0.weight",
        "roi_heads.box_head.conv4.norm.weight": "box_heads.0.convs.3.norm.weight",
        "roi_heads.box_head.fc1.weight": "box_heads.0.fc1.weight",
        "roi_heads.mask_head.mask_fcn2.norm.running_mean": "mask_heads.0.convs.1.norm.running_mean",
    }
    found, _ = foreign.from_detectron2({key: torch.tensor(float(place)) for place, key in enumerate(names)})
    assert {key: int(value) for key, value in found.items()} == {key: place for place, key in enumerate(names.values())}
    assert not any(re.search("bottom_up|roi_heads", key) for key in found)


def test_a_file_without_norms_says_nothing_of_them(tmp_path):
    torch.save({"state_dict": as_mmdetection(tiny("htc_r50").state_dict())}, tmp_path / "plain.pth")
    assert not {"norm", "box_head"} & read(tmp_path / "plain.pth").built.keys()
    report = load_weights(tiny("htc_r50_syncbn"), tmp_path / "plain.pth", strict=False)
    assert {"fpn.lateral.0.norm.weight", "box_heads.0.convs.0.weight"} <= set(report.missing)
