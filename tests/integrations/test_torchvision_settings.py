"""Settings, methods and scores for which torchvision's own code must run, and does."""

from types import MethodType

import pytest
import torch
import torchvision
from torchvision.models import detection

from htc_fast.integrations.torchvision import MultiScaleRoIAlign, accelerate, replace_pooling, restore


def network(classes: int = 4, **options):
    torch.manual_seed(0)
    made = detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=classes, min_size=96, max_size=128, **options
    ).eval()
    torch.nn.init.normal_(made.roi_heads.box_predictor.cls_score.weight, std=0.05)
    return made


PICTURES = [torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) for size in ((90, 120), (96, 70))]


@torch.no_grad()
def before_and_after(model):
    before = model(PICTURES)
    after = accelerate(model)(PICTURES)
    restore(model)
    return before, after


def same(before, after) -> None:
    for one, other in zip(before, after):
        assert len(one["boxes"]) == len(other["boxes"])
        torch.testing.assert_close(other["scores"], one["scores"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other["boxes"], one["boxes"], rtol=1e-3, atol=0.05)


def keep_five(self, proposals, objectness, image_shapes, num_anchors_per_level):
    return [one[:5].clamp(0, 60) + one.new_tensor([0, 0, 20, 20]) for one in proposals], []


def moved(self, grid_sizes, strides):
    return [one + 20 for one in type(self).grid_anchors(self, grid_sizes, strides)]


def halved(self, rel_codes, boxes):
    return type(self).decode(self, rel_codes, boxes) * 0.5


def nothing(self, class_logits, box_regression, proposals, image_shapes):
    return [[torch.zeros(0, *size) for _ in proposals] for size in ((4,), (), ())]


METHODS = {
    "filter_proposals": (lambda model: model.rpn, keep_five),
    "grid_anchors": (lambda model: model.rpn.anchor_generator, moved),
    "decode": (lambda model: model.rpn.box_coder, halved),
    "postprocess_detections": (lambda model: model.roi_heads, nothing),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_somebody_replaced_are_called(name):
    model, (owner, method) = network(), METHODS[name]
    with torch.no_grad():
        usual = model(PICTURES)
    setattr(owner(model), name, MethodType(method, owner(model)))
    before, after = before_and_after(model)
    assert any(len(one["boxes"]) != len(other["boxes"]) or not torch.allclose(one["boxes"], other["boxes"], atol=1)
               for one, other in zip(usual, before))  # fmt: skip
    same(before, after)


def test_boxes_without_area_and_no_classes():
    model = network()
    model.rpn.min_size = 0.0
    same(*before_and_after(model))
    before, after = before_and_after(network(classes=1))
    assert [len(one["boxes"]) for one in before] == [len(one["boxes"]) for one in after] == [0, 0]


def test_scores_that_saturate_keep_torchvisions_order():
    model = network()
    model.roi_heads.box_predictor.cls_score.weight.data.mul_(200)
    before, after = before_and_after(model)
    assert sum(int((one["scores"] == 1).sum()) for one in before) > 20
    for one, other in zip(before, after):
        assert len(one["boxes"]) == len(other["boxes"])
        near = (one["boxes"] - other["boxes"]).abs().amax(1) < 0.1
        assert near.float().mean() > 0.9


def test_a_picture_that_is_no_number_has_no_objects():
    model = accelerate(network())
    with torch.no_grad():
        found = model([PICTURES[0], torch.full_like(PICTURES[1], torch.nan)])
    assert len(found[0]["boxes"]) > 0 and len(found[1]["boxes"]) == 0


def test_restore_leaves_what_it_did_not_exchange():
    model = network(box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2))
    assert type(restore(model).roi_heads.box_roi_pool) is MultiScaleRoIAlign
    assert type(restore(accelerate(model)).roi_heads.box_roi_pool) is MultiScaleRoIAlign
    model = network()
    assert replace_pooling(model) == 1 and type(restore(model).roi_heads.box_roi_pool) is MultiScaleRoIAlign
    assert type(restore(accelerate(network())).roi_heads.box_roi_pool) is torchvision.ops.MultiScaleRoIAlign
