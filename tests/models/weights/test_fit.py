"""Sizes, names of models and other kinds of network, as a file's tensors tell them."""

import re

import pytest
import torch
from torchvision.models import resnet18

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.htc import HTC
from htc_fast.models.weights import fit
from htc_fast.models.weights.load import load_weights, read
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection


def rows(names, count, mask=None):
    """A classifier's, a box regression's and a mask head's last layers, as a library names them."""
    shapes = [(count, 8), (count,), (4 * count, 8), (4 * count,), (mask or count, 8, 1, 1), (mask or count,)]
    parts = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    return {part: torch.arange(float(torch.Size(shape).numel())).view(shape) for part, shape in zip(parts, shapes)}


TORCHVISION = [
    "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred",
    "roi_heads.mask_predictor.mask_fcn_logits",
]
MMDETECTION = ["roi_head.bbox_head.0.fc_cls", "roi_head.bbox_head.0.fc_reg", "roi_head.mask_head.0.conv_logits"]
MMDETECTION_1 = [name.removeprefix("roi_head.") for name in MMDETECTION]
DETECTRON2 = ["roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred", "roi_heads.mask_head.predictor"]


@pytest.mark.parametrize("names", [TORCHVISION, MMDETECTION, MMDETECTION_1, DETECTRON2])
def test_classes_are_counted_by_rows(tmp_path, names, capsys):
    state = rows(names, 8, mask=7 if names in (MMDETECTION, DETECTRON2) else 8)
    if names in (MMDETECTION, DETECTRON2):
        state = {key: value[:28] if len(value) == 32 else value for key, value in state.items()}
    if names is DETECTRON2:
        state["backbone.bottom_up.stem.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save({"model": state}, tmp_path / "seven.pth")
    file = read(tmp_path / "seven.pth")
    assert file.num_classes == 7 and fit.sizes(file.tensors)["class_agnostic"] is False
    assert len(file.tensors["mask_heads.0.logits.bias"]) == 7 and capsys.readouterr().err == ""
    file.check(7)
    with pytest.raises(UserError, match="has 7 classes and the model is to have 80: give num_classes=7"):
        file.check(80)


def test_torchvision_s_91_rows(tmp_path, capsys):
    torch.save(rows(TORCHVISION, 91), tmp_path / "coco.pth")
    file = read(tmp_path / "coco.pth")
    assert file.num_classes == 80 and file.tensors["box_heads.0.classes.bias"][[0, 79, 80]].tolist() == [1, 90, 0]
    assert "its 91 rows are read as COCO's 80 classes" in capsys.readouterr().err
    own = read(tmp_path / "coco.pth", 90)
    assert own.num_classes == 90 and own.tensors["box_heads.0.classes.bias"][[11, 90]].tolist() == [12, 0]
    assert read(tmp_path / "coco.pth", 80).num_classes == 80 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "meta, names",
    [
        ({"CLASSES": ("cat", "dog", "owl")}, ("cat", "dog", "owl")),
        ({"dataset_meta": {"classes": ["cat", "dog", "owl"], "palette": [(1, 2, 3)]}}, ("cat", "dog", "owl")),
        ({"dataset_meta": {"CLASSES": ("cat", "dog", "traffic_light")}}, ("cat", "dog", "traffic light")),
        ({"CLASSES": ("cat", "dog")}, ()),
        ({"CLASSES": "cat"}, ()),
        ({"CLASSES": (1, 2, 3)}, ()),
        ({"dataset_meta": None, "CLASSES": None}, ()),
    ],
)
def test_mmdetection_s_class_names(tmp_path, monkeypatch, capsys, meta, names):
    source = tiny("htc_r50")
    monkeypatch.setitem(zoo.MODELS, "htc_r50", zoo.config("htc_r50", backbone="test_resnet"))
    torch.save({"meta": meta, "state_dict": as_mmdetection(source.state_dict())}, tmp_path / "named.pth")
    found = htc_fast.load(tmp_path / "named.pth", name="htc_r50", device="cpu").config
    assert (found.class_names, found.num_classes, found.semantic_classes) == (names, 3, 5)
    assert ("no name is used" in capsys.readouterr().err) == (meta.get("CLASSES") in (("cat", "dog"), "cat"))


BETAS = "_beta0.2", "_beta0.5", "_beta2", "_beta3"


@pytest.mark.parametrize(
    "name, names",
    [
        # Those that differ in nothing that a file holds.
        ("htc_r50", [f"htc_r50{one}" for one in ("", *BETAS, "_prroipool", "_softnms", "_mstrain")]),
        ("htc_r50_pafpn", ["htc_r50_pafpn"]),
        ("htc_r50_dcn_syncbn", ["htc_r50_dcn_syncbn", "htc_r50_dcn_syncbn_mstrain"]),
        ("htc_winner_dpn107", ["htc_winner_dpn107"]),
        ("panet_r50", ["panet_r50"]),
        ("htc_r101_nosem", ["htc_r101_nosem"]),
        ("cascade_mask_x101_64x4d", ["cascade_mask_x101_64x4d", "cascade_mask_x101_64x4d_interleaved"]),
        ("mask_rcnn_r50", ["mask_rcnn_r50", "mask_rcnn_r50_interleaved"]),
    ],
)
def test_the_names_that_fit(name, names):
    with torch.device("meta"):
        assert fit.fitting(HTC(zoo.config(name, num_classes=7)).state_dict()) == names
    assert fit.fitting({"x": torch.ones(1)}) == []


@pytest.mark.parametrize("name", ["htc_r50_aspp", "htc_r50_gcn", "htc_winner", "panet_r50"])
def test_a_file_s_names_build_its_network(name):
    config = zoo.config(name, num_classes=7)
    with torch.device("meta"):
        state = HTC(config).state_dict()
        base = "mask_rcnn_r50" if name == "panet_r50" else "htc_r50"
        built = zoo.config(base, num_classes=7, backbone=config.backbone, **fit.sizes(state))
        assert {key: one.shape for key, one in HTC(built).state_dict().items()} == {
            k: v.shape for k, v in state.items()
        }
    assert fit.fitting(state) == [name]


def test_a_smaller_network_does_not_take_a_part_of_a_larger_one(tmp_path):
    small = {"channels": 16, "box_channels": 32, "num_classes": 3}
    deep = htc_fast.create_model("mask_rcnn_r50", backbone="resnet26", **small)
    extra = {f"backbone.net.layer3.2.{key}": value for key, value in deep.backbone.net.layer3[1].state_dict().items()}
    torch.save({**deep.state_dict(), **extra}, tmp_path / "deeper.pth")
    with pytest.raises(UserError, match=r"another architecture.*unexpected \(backbone.net.layer3.2"):
        load_weights(deep, tmp_path / "deeper.pth")
    torch.save({**deep.state_dict(), "backbone.net.fc.weight": torch.ones(10, 4)}, tmp_path / "classifier.pth")
    assert load_weights(deep, tmp_path / "classifier.pth").unexpected == ["backbone.net.fc.weight"]
    torch.save(tiny("htc_r50").state_dict(), tmp_path / "htc.pth")
    for name in ("htc_r50_nosem", "cascade_mask_r50", "mask_rcnn_r50"):
        with pytest.raises(UserError, match="another architecture"):
            htc_fast.create_model(name, num_classes=3, weights=tmp_path / "htc.pth", backbone="test_resnet")


@pytest.mark.parametrize(
    "names, kind",
    [
        (["model.0.conv.weight", "model.0.bn.weight"], "a YOLO"),
        (["transformer.encoder.layers.0.linear1.weight", "backbone.0.body.conv1.weight"], "a DETR"),
        (["image_encoder.pos_embed"], "a Segment Anything model"),
        (["bbox_head.cls_convs.0.weight"], "a detector of another kind"),
        (["stages.0.blocks.0.norm.weight"], "a backbone alone"),
        (["backbone.layer1.0.conv1.weight"], "a backbone alone"),
        (["encoder.embedding.weight"], "another kind of network"),
    ],
)
def test_other_kinds_of_network(tmp_path, names, kind):
    torch.save({"model": dict.fromkeys(names, torch.ones(2))}, tmp_path / "other.pth")
    sentence = re.escape(f"looks like {kind} ({len(names)} tensors: ")
    for strict in (True, False):
        with pytest.raises(UserError, match=sentence + ".*expected HTC, Cascade Mask R-CNN or Mask R-CNN"):
            load_weights(tiny("htc_r50"), tmp_path / "other.pth", strict)


def test_a_classification_network(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match=r"a backbone alone \(122 tensors: conv1.weight, bn1.weight, bn1.bias"):
        load_weights(tiny("htc_r50"), tmp_path / "imagenet.pth", strict=False)
