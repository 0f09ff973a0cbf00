"""Our models in mmdetection's terms: its names, its configuration's fields, and what it has no part for."""

import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models.weights import fit, foreign, load
from htc_fast.models.weights.mmdetection import to_mmdetection

SMALL = {"num_classes": 3, "box_channels": 24}
# What each brings beside the names that all have; how many tensors; the configuration that it belongs to.
KINDS = {
    "htc_r50": ("roi_head.mask_head.2.conv_res.conv.weight", 426, "htc/htc_r50_fpn_1x_coco"),
    "htc_r50_nosem": ("roi_head.mask_head.1.conv_res.conv.bias", None, "htc/htc-without-semantic_r50_fpn_1x_coco"),
    "cascade_mask_r50": ("roi_head.bbox_head.2.fc_reg.weight", None, "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco"),
    "mask_rcnn_r50": ("roi_head.bbox_head.shared_fcs.1.weight", None, "mask_rcnn/mask-rcnn_r50_fpn_1x_coco"),
    "scnet_r50": ("roi_head.mask_head.convs.5.conv2.bias", None, "scnet/scnet_r50_fpn_1x_coco"),
    "detectors_htc_r50": ("neck.rfp_modules.0.layer2.0.rfp_conv.weight", None, "detectors/detectors_htc-r50_1x_coco"),
    "detectors_htc_r50_rfp": ("neck.rfp_aspp.aspp.3.weight", None, "detectors/htc_r50-rfp_1x_coco"),
    "detectors_htc_r50_sac": ("backbone.layer2.0.conv2.offset_l.bias", None, "detectors/htc_r50-sac_1x_coco"),
    "htc_r50_dcn": ("backbone.layer4.0.conv2.conv_offset.weight", 432, "htc/htc_r50_fpn_1x_coco"),
}
ALL = (
    "backbone.layer1.0.downsample.1.running_var",
    "neck.lateral_convs.3.conv.bias",
    "neck.fpn_convs.0.conv.weight",
    "rpn_head.rpn_cls.bias",
)


def model(name, **options):
    torch.manual_seed(0)
    return htc_fast.create_model(name, **{**SMALL, **options})


@pytest.mark.parametrize("name", KINDS)
def test_names_are_mmdetections_and_come_back(name, tmp_path):
    ours = model(name, **({} if "cascade" in name or "rcnn" in name or "nosem" in name else {"semantic_classes": 5}))
    found, (own, count, config) = to_mmdetection(ours), KINDS[name]
    assert {own, *ALL} <= found.state.keys() and found.config == config
    assert count is None or len(found.state) == count
    torch.save(found.checkpoint(["a", "b", "c"]), tmp_path / "theirs.pth")
    file = load.read(tmp_path / "theirs.pth")
    state = ours.state_dict()
    assert file.tensors.keys() == state.keys() and file.class_names == ("a", "b", "c")
    assert all(file.tensors[key].equal(value) for key, value in state.items())
    assert name in fit.fitting(file.tensors)


def test_what_the_configuration_must_say():
    options = to_mmdetection(
        model("htc_x101_64x4d", semantic_classes=5, roi_samples=2, score_threshold=0.05, soft_nms=True, semantic="box")
    ).options
    assert options["model.backbone.type"] == "ResNeXt" and options["model.backbone.groups"] == 64
    assert [options[f"model.roi_head.bbox_head.{stage}.num_classes"] for stage in range(3)] == [3, 3, 3]
    assert options["model.roi_head.bbox_head.1.bbox_coder.target_stds"] == [0.05, 0.05, 0.1, 0.1]
    assert options["model.roi_head.mask_head.2.num_classes"] == 3
    assert options["model.roi_head.semantic_head.num_classes"] == 5
    assert options["model.roi_head.semantic_fusion"] == ("bbox",)
    assert options["model.roi_head.semantic_roi_extractor.roi_layer.sampling_ratio"] == 2
    assert options["model.test_cfg.rcnn.nms"] == {"type": "soft_nms", "iou_threshold": 0.5}
    assert options["model.test_cfg.rcnn.score_thr"] == 0.05
    deformable = to_mmdetection(model("htc_r50_dcn")).options
    assert deformable["model.backbone.stage_with_dcn"] == (False, False, False, True)
    one = to_mmdetection(model("mask_rcnn_r50", stride_in_1x1=True)).options
    assert one["model.roi_head.bbox_head.num_classes"] == 3 and one["model.backbone.style"] == "caffe"
    assert not any("semantic" in name or "info_flow" in name for name in one)


LACKS = {
    "backbone='test_resnet'": ("htc_r50", {"backbone": "test_resnet"}),
    "channels=64": ("htc_r50", {"channels": 64}),
    "neck='pafpn'": ("panet_r50", {}),
    "aspp=True": ("htc_r50_aspp", {}),
    "gcn=True": ("htc_r50_gcn", {}),
    "norm='syncbn'": ("htc_r50_syncbn", {}),
    "roi_pooling='pr_roi_pool'": ("htc_r50_prroipool", {}),
    "rpn_guided": ("htc_r50_ga", {}),
    "rpn_whole_anchors": ("mask_rcnn_r50", {"rpn_whole_anchors": True}),
    "class_loss='seesaw'": ("mask_rcnn_r50", {"class_loss": "seesaw"}),
    "score_average='probabilities'": ("htc_r50", {"score_average": "probabilities"}),
    "global_context=True": ("htc_r50", {"global_context": True}),
    "residual_heads=True": ("cascade_mask_r50", {"residual_heads": True}),
    "residual_heads=False": ("scnet_r50", {"residual_heads": False}),
    "feature_relay=False": ("scnet_r50", {"feature_relay": False}),
    "semantic='none'": ("scnet_r50", {"semantic": "none"}),
    "sac=(4, 5)": ("detectors_htc_r50", {"sac": (4, 5)}),
    "fpn_steps=3": ("detectors_htc_r50", {"fpn_steps": 3}),
    "DetectoRS without a semantic branch": ("detectors_htc_r50_rfp", {"semantic": "none"}),
    "test_stage=2": ("htc_r50", {"test_stage": 2}),
    "a semantic branch without information_flow": ("cascade_mask_r50_sem_both", {}),
}


@pytest.mark.parametrize("sentence", LACKS)
def test_what_mmdetection_lacks(sentence):
    name, options = LACKS[sentence]
    with pytest.raises(UserError, match=r"mmdetection has no .* of this kind") as said:
        to_mmdetection(model(name, **options))
    assert sentence in str(said.value) and "\n" not in str(said.value)


def test_a_part_without_a_name_there_is_told(monkeypatch):
    ours = model("mask_rcnn_r50")
    monkeypatch.setattr(foreign, "from_mmdetection", lambda state: {})
    with pytest.raises(UserError, match="parts that mmdetection lacks: backbone"):
        to_mmdetection(ours)
