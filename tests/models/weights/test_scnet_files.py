"""mmdetection's SCNet files: every name that they have beside HTC's, and the network that the names tell."""

import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import find, fit, foreign, rows
from htc_fast.models.weights.load import Report, load_weights, read
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same

# Each a layer with weight and bias.
NAMES = {
    "roi_head.mask_head.convs.0.conv1": "mask_heads.0.convs.0.first",
    "roi_head.mask_head.convs.0.conv2": "mask_heads.0.convs.0.second",
    "roi_head.mask_head.convs.1.conv1": "mask_heads.0.convs.1.first",
    "roi_head.mask_head.convs.1.conv2": "mask_heads.0.convs.1.second",
    "roi_head.mask_head.convs.2.conv1": "mask_heads.0.convs.2.first",
    "roi_head.mask_head.convs.2.conv2": "mask_heads.0.convs.2.second",
    "roi_head.mask_head.convs.3.conv1": "mask_heads.0.convs.3.first",
    "roi_head.mask_head.convs.3.conv2": "mask_heads.0.convs.3.second",
    "roi_head.mask_head.convs.4.conv1": "mask_heads.0.convs.4.first",
    "roi_head.mask_head.convs.4.conv2": "mask_heads.0.convs.4.second",
    "roi_head.mask_head.convs.5.conv1": "mask_heads.0.convs.5.first",
    "roi_head.mask_head.convs.5.conv2": "mask_heads.0.convs.5.second",
    "roi_head.mask_head.upsample": "mask_heads.0.upsample",
    "roi_head.mask_head.conv_logits": "mask_heads.0.logits",
    "roi_head.semantic_head.convs.0.conv1": "semantic_head.convs.0.first",
    "roi_head.semantic_head.convs.0.conv2": "semantic_head.convs.0.second",
    "roi_head.semantic_head.convs.1.conv1": "semantic_head.convs.1.first",
    "roi_head.semantic_head.convs.1.conv2": "semantic_head.convs.1.second",
    "roi_head.glbctx_head.convs.0.conv1": "context_head.convs.0.first",
    "roi_head.glbctx_head.convs.0.conv2": "context_head.convs.0.second",
    "roi_head.glbctx_head.convs.1.conv1": "context_head.convs.1.first",
    "roi_head.glbctx_head.convs.1.conv2": "context_head.convs.1.second",
    "roi_head.glbctx_head.fc": "context_head.classes",
    "roi_head.feat_relay_head.fc": "relay.dense",
    "roi_head.bbox_head.0.shared_fcs.0": "box_heads.0.fc1",
    "roi_head.bbox_head.0.shared_fcs.1": "box_heads.0.fc2",
    "roi_head.bbox_head.0.fc_cls": "box_heads.0.classes",
    "roi_head.bbox_head.0.fc_reg": "box_heads.0.deltas",
    "roi_head.bbox_head.1.shared_fcs.0": "box_heads.1.fc1",
    "roi_head.bbox_head.1.shared_fcs.1": "box_heads.1.fc2",
    "roi_head.bbox_head.1.fc_cls": "box_heads.1.classes",
    "roi_head.bbox_head.1.fc_reg": "box_heads.1.deltas",
    "roi_head.bbox_head.2.shared_fcs.0": "box_heads.2.fc1",
    "roi_head.bbox_head.2.shared_fcs.1": "box_heads.2.fc2",
    "roi_head.bbox_head.2.fc_cls": "box_heads.2.classes",
    "roi_head.bbox_head.2.fc_reg": "box_heads.2.deltas",
}
SHOWN = {"feature_relay": True, "global_context": True, "residual_heads": True}
ONE = {"sample_consistency": True, "interleaved": False, "information_flow": False}


def as_scnet(state):
    """Our tensors under mmdetection's names."""
    theirs = {own: name for name, own in NAMES.items()}
    out = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        out |= {f"{theirs[layer]}.{kind}": value} if layer in theirs else as_mmdetection({key: value})
    return out


def written(path, state):
    torch.save({"meta": {"CLASSES": ("cat", "dog", "owl")}, "state_dict": state}, path)
    return path


def test_mmdetection_s_file(tmp_path, monkeypatch):
    source = tiny("scnet_r50")
    for parameter in source.parameters():
        parameter.data.normal_(std=0.1)
    theirs = as_scnet(source.state_dict())
    assert {f"{name}.{kind}" for name in NAMES for kind in ("weight", "bias")} <= theirs.keys()
    assert not [key for key in theirs if key.startswith(("box_heads", "mask_heads", "semantic_", "context_", "relay"))]
    path = written(tmp_path / "scnet.pth", theirs)
    assert read(path).tensors.keys() == source.state_dict().keys()
    target = tiny("scnet_r50")
    assert not same(source, target)
    assert load_weights(target, path) == Report() and same(source, target)
    # By its names it tells what HTC has not.
    known = {name: zoo.config(name, backbone="test_resnet") for name in ("scnet_r50", "htc_r50")}
    monkeypatch.setattr(zoo, "MODELS", known)
    for name in known:
        made = htc_fast.create_model(name, num_classes=3, weights=path)
        assert made.config.sample_consistency and made.config.feature_relay and same(source, made)
    assert htc_fast.load(path, name="scnet_r50", device="cpu").config.class_names == ("cat", "dog", "owl")
    with pytest.raises(UserError, match=r"another architecture than htc_r50: .*; it fits scnet_r50"):
        load_weights(tiny("htc_r50"), path)


def test_norms_behind_the_pairs():
    """mmdetection's pairs number their norms, whose convolutions have no bias then."""
    names = {
        "roi_head.mask_head.convs.5.bn1.weight": "mask_heads.0.convs.5.first.norm.weight",
        "roi_head.semantic_head.convs.0.bn2.running_var": "semantic_head.convs.0.second.norm.running_var",
        "roi_head.glbctx_head.convs.1.bn1.bias": "context_head.convs.1.first.norm.bias",
        "roi_head.glbctx_head.convs.1.conv2.weight": "context_head.convs.1.second.weight",
    }
    for name, own in names.items():
        assert foreign.from_mmdetection({name: torch.ones(1)}).keys() == {own}
    normed = {"norm": "syncbn", "box_head": "4conv1fc", "norm_eval": False}
    assert set(names.values()) <= tiny("scnet_r50", **normed).state_dict().keys()


def test_a_file_tells_which_switches_are_on():
    switches = {"channels": 16, "box_channels": 32, "class_agnostic": True}
    told = lambda name, **options: fit.sizes(tiny(name, semantic="none", **options).state_dict())  # noqa: E731
    assert told("scnet_r50") == {**switches, **ONE, **SHOWN} | {"residual_heads": True}
    assert told("htc_r50") == told("cascade_mask_r50") == switches
    assert told("cascade_mask_r50", sample_consistency=True) == {**switches, **ONE}
    assert told("htc_r50", global_context=True) == {**switches, "global_context": True}
    assert told("htc_r50", residual_heads=True) == {**switches, "residual_heads": True}
    # One box head has one mask head, too.
    assert told("mask_rcnn_r50") == {**switches, "class_agnostic": False}


def test_the_names_that_fit():
    with torch.device("meta"):
        assert fit.fitting(HTC(zoo.config("scnet_r50")).state_dict()) == ["scnet_r50"]


def test_the_network_is_found_behind_any_prefix():
    state = {f"model.net.{key}": value for key, value in as_scnet(tiny("scnet_r50").state_dict()).items()}
    tensors, notes = find.network({"state_dict": state}, "file")
    assert notes == [] and len(tensors) == len(state)
    assert {"roi_head.glbctx_head.fc.weight", "roi_head.feat_relay_head.fc.bias"} <= tensors.keys()


def test_the_context_s_rows_go_where_their_classes_are():
    file, own = ({"context_head.classes.bias": torch.arange(n) + 10.0 * n} for n in (2, 3))
    made = rows.moved(file, own, ("cat", "dog"), ("dog", "owl", "cat"))
    assert made["context_head.classes.bias"].tolist() == [21, 31, 20]


def test_a_row_for_the_background_in_the_context_is_dropped(tmp_path):
    model = tiny("scnet_r50")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("context_head.classes.weight", "context_head.classes.bias"):
        state[name] = torch.cat([state[name], torch.full_like(state[name][:1], 9.0)])
    torch.save(state, tmp_path / "early.pth")
    tensors = read(tmp_path / "early.pth").tensors
    assert len(state["context_head.classes.bias"]) == model.config.num_classes + 1
    assert tensors["context_head.classes.weight"].equal(model.state_dict()["context_head.classes.weight"])
    assert tensors["context_head.classes.bias"].equal(model.state_dict()["context_head.classes.bias"])


def test_one_stage_with_a_relay_is_known_by_the_relay(tmp_path):
    model = tiny("mask_rcnn_r50", sample_consistency=True, feature_relay=True)
    torch.save(model.state_dict(), tmp_path / "one.pth")
    built = read(tmp_path / "one.pth").built
    assert built["feature_relay"] and built["sample_consistency"] and not built["interleaved"]
