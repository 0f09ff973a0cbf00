"""Names, variants and their parts."""

import json

import pytest
import torch

import htc_fast
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.config import as_dict, from_dict

TINY = {"backbone": "test_resnet", "channels": 16, "box_channels": 32, "num_classes": 3, "semantic_classes": 5}
QUICK = {"rpn_proposals": 30, "rpn_proposals_per_level": 50, "detections": 8}
SIZES = torch.tensor([[60, 90], [64, 96]])


def tiny(name, **overrides):
    torch.manual_seed(0)
    return htc_fast.create_model(name, **{**TINY, **QUICK, **overrides})


def test_parameter_count_of_the_paper_s_model():
    model = htc_fast.create_model("htc_r50")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sum(count.values()) == 80_258_293
    assert count["backbone"] == 23_508_032 and count["fpn"] == 3_344_384 and count["rpn"] == 593_935
    assert count["semantic_head"] == 2_802_103 and count["box_heads"] == 3 * 13_982_805
    assert count["mask_heads"] == 2_643_280 + 2 * 2_709_072


@pytest.mark.parametrize("name", htc_fast.list_models())
def test_every_model_detects(name):
    model = tiny(name).eval()
    found = model.detect(torch.randn(2, 3, 64, 96), SIZES)
    assert found.boxes.shape == (2, 8, 4) and found.masks.shape == (2, 8, 28, 28)
    assert found.labels.shape == found.scores.shape == (2, 8) and found.count.dtype == torch.int32
    assert (found.count == (found.labels >= 0).sum(1)).all() and found.count.min() > 0
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
    limit = SIZES.flip(1).repeat(1, 2)[:, None]
    assert (found.boxes >= 0).all() and (found.boxes <= limit).all()


def test_tables_of_the_paper():
    names = htc_fast.list_models()
    for short in ("r50", "r101", "x101_64x4d"):
        assert f"htc_{short}" in names and f"cascade_mask_{short}" in names
    assert zoo.config("htc_r50").semantic_loss_weight == 1.0
    assert zoo.config("htc_r50_nosem").semantic == "none" and zoo.config("htc_r50_nosem").information_flow
    assert not zoo.config("mask_rcnn_r50").class_agnostic and zoo.config("mask_rcnn_r50_interleaved").interleaved
    for suffix, semantic in (("none", "loss"), ("bbox", "box"), ("mask", "mask"), ("both", "both")):
        config = zoo.config(f"cascade_mask_r50_sem_{suffix}")
        assert config.semantic == semantic and not config.interleaved and not config.information_flow


def test_configuration_survives_json():
    config = zoo.config("htc_r50", rpn_nms_iou=0.6, loss_weight=(1, 1, 1), num_classes=7)
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config
    assert config.rpn.nms_iou == 0.6 and config.stages.loss_weight == (1, 1, 1)


def test_guided_anchors_come_and_go_with_all_that_belongs_to_them():
    plain, guided = zoo.config("htc_r50").rpn, zoo.config("htc_winner").rpn
    assert (guided.guided, guided.allowed_border, guided.proposals, guided.train_proposals) == (True, -1.0, 300, 300)
    assert zoo.config("htc_r50", rpn="ga").rpn == zoo.config("htc_r50", rpn_guided=True).rpn == guided
    assert zoo.config("htc_winner", rpn="rpn").rpn == zoo.config("htc_winner", rpn_guided=False).rpn == plain
    assert zoo.config("htc_r50", rpn_guided=True, rpn_proposals=50).rpn.proposals == 50
    assert zoo.config("htc_winner", rpn_proposals=1000).rpn.guided and zoo.config("htc_r50", dcn=[5, 3, 5]).dcn == (
        3,
        5,
    )


def test_single_stages_and_the_ensemble_differ():
    images = torch.randn(1, 3, 64, 96)
    found = [tiny("htc_r50", test_stage=t).eval().detect(images, SIZES[1:]) for t in (1, 2, 3, None)]
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            assert not torch.equal(a.scores, b.scores)
    # Stage 1 alone never runs the later heads.
    model = tiny("htc_r50", test_stage=1).eval()
    for head in (*model.box_heads[1:], *model.mask_heads[1:]):
        for parameter in head.parameters():
            parameter.data.fill_(torch.nan)
    assert torch.equal(model.detect(images, SIZES[1:]).masks, found[0].masks)


def test_frozen_parts_and_norms():
    model = tiny("htc_r50").train()
    net = model.backbone.net
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(("conv1", "bn1", "layer1")) for name in frozen)
    assert all(not m.training for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    free = tiny("htc_r50", frozen_stages=0, norm_eval=False).train()
    assert all(p.requires_grad for p in free.parameters())
    assert all(m.training for m in free.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_convnext", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"]
)
def test_any_timm_backbone(backbone):
    model = tiny("htc_r50", backbone=backbone).eval()
    features = model.extract(torch.randn(1, 3, 96, 160))
    assert [tuple(one.shape[-2:]) for one in features] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    assert model.detect(torch.randn(1, 3, 96, 160), torch.tensor([[96, 160]])).count.item() > 0


def test_a_picture_in_a_batch_is_found_as_alone():
    model = tiny("htc_r50", detections=20).eval()
    images = torch.zeros(2, 3, 96, 128)
    images[0, :, :60, :90] = torch.randn(3, 60, 90)
    images[1] = torch.randn(3, 96, 128)
    sizes = torch.tensor([[60, 90], [96, 128]])
    both = model.detect(images, sizes)
    for n in range(2):
        alone = model.detect(images[n : n + 1], sizes[n : n + 1])
        assert torch.equal(alone.labels[0], both.labels[n])
        torch.testing.assert_close(alone.boxes[0], both.boxes[n], rtol=0, atol=1e-3)
        torch.testing.assert_close(alone.masks[0], both.masks[n], rtol=0, atol=1e-3)


def test_fewer_proposals_and_detections_than_there_is_room_for():
    model = tiny("htc_r50", rpn_proposals=1000, detections=100, score_threshold=0.9).eval()
    found = model.detect(torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]]))
    assert found.count.tolist() == [0] and (found.labels == -1).all() and found.masks.abs().sum() == 0


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50"])
def test_no_proposals_at_all(name):
    model = tiny(name).eval()
    model.rpn.deltas.bias.data.fill_(torch.nan)
    found = model.detect(torch.zeros(2, 3, 64, 96), SIZES)
    assert found.count.tolist() == [0, 0] and (found.labels == -1).all() and found.boxes.abs().sum() == 0


def test_unknown_names_suggest_near_ones():
    with pytest.raises(UserError, match="did you mean htc_r50"):
        htc_fast.create_model("htc_r5")
    with pytest.raises(UserError, match="semantic"):
        htc_fast.create_model("htc_r50", semantik="box")
    with pytest.raises(UserError, match="resnet50"):
        htc_fast.create_model("htc_r50", backbone="resnet5O")
    with pytest.raises(UserError, match="strides"):
        htc_fast.create_model("htc_r50", backbone="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="semantic must be one of"):
        htc_fast.create_model("htc_r50", semantic="boxes")
