"""HTC++ by name: what its rows say, and how many parameters they make."""

import pytest
import torch

import htc_fast
from htc_fast.models import zoo
from htc_fast.models.backbone import Backbone
from tests.models.test_zoo import SIZES

# Parameters of ours, and in millions as published: of Cascade Mask R-CNN on the same backbone, and of HTC++.
COUNTS = {
    "t": (87_591_791, 85_629_804, 86, None),
    "s": (108_909_695, 106_947_708, 107, None),
    "b": (146_938_989, 144_977_002, 145, 160),
    "l": (255_437_897, 253_475_910, None, 284),
}


def count(name, **options):
    with torch.device("meta"):
        model = htc_fast.create_model(name, **options)
    return sum(one.numel() for one in model.parameters()), model.backbone.channels[-1]


@pytest.mark.parametrize("size", COUNTS)
def test_parameters(size, monkeypatch):
    """Cascade Mask R-CNN's are the published ones. HTC++ has, in the paper, a layer of self-attention of the whole map
    behind the last stage, which no public configuration has and ours has not: it makes up the difference."""
    monkeypatch.setattr(Backbone, "_try", lambda *_: None)  # tested elsewhere, and slow
    ours, cascade, published_cascade, published = COUNTS[size]
    found, channels = count(f"htcpp_swin_{size}")
    assert found == ours
    if published is not None:
        # Four matrices of attention and eight of what follows it.
        assert round((ours + 12 * channels**2) / 1e6) == published
    without = {"information_flow": False, "interleaved": False, "semantic": "none", "class_agnostic": False}
    assert count(f"htcpp_swin_{size}", **without)[0] == cascade
    assert published_cascade is None or round(cascade / 1e6) == published_cascade


def test_rows_are_the_public_configurations():
    """CBNetV2's improved HTC, with one backbone; what is not listed is HTC's."""
    rows = [zoo.config(f"htcpp_swin_{size}") for size in "tsbl"]
    assert [(row.backbone, row.drop_path) for row in rows] == [
        ("swin_tiny_patch4_window7_224", 0.2),
        ("swin_small_patch4_window7_224", 0.2),
        ("swin_base_patch4_window7_224.ms_in22k", 0.3),
        ("swin_large_patch4_window7_224.ms_in22k", 0.2),
    ]
    for row in rows:
        assert (row.box_head, row.box_norm, row.box_loss, row.box_loss_weight) == ("4conv1fc", "syncbn", "giou", 10.0)
        assert row.class_agnostic and row.semantic == "both" and row.semantic_loss_weight == 0.2
        assert (row.soft_nms, row.nms_iou, row.score_threshold, row.detections) == (True, 0.5, 0.001, 100)
        assert (row.train_sizes, row.image_size) == ((400, 1400, 1600), (1400, 1600))
        assert (row.samples, row.positive_fraction, row.rpn.samples) == (512, 0.25, 256)
        assert (row.rpn.train_proposals, row.rpn.proposals, row.rpn.proposals_per_level) == (2000, 1000, 1000)
        assert (row.frozen_stages, row.norm, row.box_channels) == (-1, "none", 1024)
        assert row.stages.delta_std[2] == (0.033, 0.033, 0.067, 0.067) and row.stages.loss_weight == (1, 0.5, 0.25)


def test_with_its_own_backbone():
    """A step of training and detections of Swin-T, whose maps become the pyramid's."""
    torch.manual_seed(0)
    small = {"channels": 16, "box_channels": 32, "num_classes": 3, "rpn_proposals": 30, "detections": 8}
    model = htc_fast.create_model("htcpp_swin_t", **small, semantic_classes=5).eval()
    features = model.extract(torch.randn(2, 3, 64, 96))
    assert [tuple(one.shape[-2:]) for one in features] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    found = model.detect(torch.randn(2, 3, 64, 96), SIZES)
    assert found.boxes.shape == (2, 8, 4) and found.masks.isfinite().all() and found.count.min() > 0


def test_another_backbone_has_no_rate_of_stochastic_depth_unless_it_is_asked_for():
    rates = {"dpn107": {}, "swin_tiny_patch4_window7_224.ms_in22k": {}, "convnext_tiny": {"drop_path": 0.4}}
    found = [zoo.config("htcpp_swin_t", backbone=name, **options).drop_path for name, options in rates.items()]
    assert found == [0.0, 0.2, 0.4]


def test_detectors_rows_are_the_public_configurations():
    rows = {"": (2, (3, 4, 5)), "_rfp": (2, ()), "_sac": (1, (3, 4, 5))}
    for suffix, wanted in rows.items():
        config = zoo.config(f"detectors_htc_r50{suffix}")
        assert (config.fpn_steps, config.sac) == wanted and config.semantic_loss_weight == 0.2
