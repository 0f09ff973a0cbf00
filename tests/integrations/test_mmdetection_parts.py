"""What accelerates mmdetection, part by part, and what is left to mmdetection because it asks for something else."""

# ruff: noqa: E402 - mmdetection must not be imported before its operators are there

import copy
import importlib.util

import pytest
import torch

if importlib.util.find_spec("mmdet") is None:
    pytest.skip("mmdetection is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from htc_fast.integrations import mmcv

mmcv.install()

from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from htc_fast import ops
from htc_fast.integrations import mmdetection
from tests.integrations import mmdetection_cases as cases
from tests.integrations.test_mmdetection_models import same
from tests.integrations.test_pooling import boxes, pyramid


def extractor(**changes):
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0, **changes}
    strides = [4, 8, 16, 32]
    return MODELS.build(
        {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 5, "featmap_strides": strides}
    )


def rois(count: int = 60) -> torch.Tensor:
    return torch.cat(
        [torch.randint(2, (count, 1), generator=torch.Generator().manual_seed(1)).float(), boxes(count, 7)], 1
    )


@pytest.mark.parametrize("factor", [None, 1.2, 0.5])
@pytest.mark.parametrize("levels", [4, 3, 1])
def test_extractors_scale_boxes_after_their_levels_were_chosen(factor, levels):
    theirs, maps = extractor(), pyramid()[:levels]
    expected = theirs(maps, rois(), roi_scale_factor=factor)
    fast = mmdetection.accelerate(torch.nn.ModuleDict({"x": copy.deepcopy(theirs)}))["x"]
    torch.testing.assert_close(fast(maps, rois(), roi_scale_factor=factor), expected, rtol=1e-4, atol=1e-4)
    alone = mmdetection.SingleRoIExtractor(7, [4, 8, 16, 32][:levels])
    torch.testing.assert_close(alone(maps, rois(), roi_scale_factor=factor), expected, rtol=1e-4, atol=1e-4)


def test_features_may_be_added_to_in_place_in_training():
    def gradients(module):
        maps = [one.requires_grad_() for one in pyramid()]
        features = module(maps, rois())
        features += 1
        return torch.autograd.grad(features.square().sum(), maps)

    expected = gradients(extractor())
    found = gradients(mmdetection.accelerate(torch.nn.ModuleDict({"x": extractor()}))["x"])
    assert expected[0].abs().sum() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_an_extractor_by_the_maximum_is_mmdetections(monkeypatch):
    theirs = extractor(pool_mode="max")
    fast = mmdetection.accelerate(torch.nn.ModuleDict({"x": theirs}))["x"]
    monkeypatch.setattr(ops, "multi_level_roi_align", lambda *a, **b: pytest.fail("a mean was taken"))
    assert fast(pyramid(), rois()).shape == (60, 5, 7, 7)


OTHERWISE = {
    "a low mask threshold": {"mask_thr_binary": 0.3},
    "soft NMS": {"nms": {"type": "soft_nms", "iou_threshold": 0.5, "min_score": 0.01}},
    "NMS over all classes": {"nms": {"type": "nms", "iou_threshold": 0.5, "class_agnostic": True}},
    "a score threshold": {"score_thr": 0.15},
    "nothing above the threshold": {"score_thr": 0.999},
}


@pytest.mark.parametrize("name", ["htc", "mask_rcnn"])
@pytest.mark.parametrize("what", OTHERWISE)
def test_other_settings_have_mmdetections_results(name, what):
    data, model = cases.pictures(1), cases.build(name, **ConfigDict(OTHERWISE[what]))
    before = cases.predict(model, data)
    same(cases.predict(mmdetection.accelerate(model), data), before)
    assert len(before[0].scores) == 0 or what != "nothing above the threshold"


def test_masks_of_resized_pictures_have_the_pictures_own_size():
    data, model = cases.pictures(1), cases.build("htc")
    height, width = data["data_samples"][0].img_shape
    data["data_samples"][0].set_metainfo({"ori_shape": (97, 201), "scale_factor": (width / 201, height / 97)})
    before = cases.predict(model, data)
    same(cases.predict(mmdetection.accelerate(model), data), before)
    assert before[0].masks.shape[1:] == (97, 201)


def test_changed_weights_are_seen():
    data, model = cases.pictures(1), mmdetection.accelerate(cases.build("htc"))
    first = cases.predict(model, data)
    cases.fill(model, seed=5)
    changed = cases.predict(model, data)
    same(changed, cases.predict(mmdetection.restore(model), data))
    assert not torch.allclose(changed[0].scores, first[0].scores)


HOOKED = (
    "neck.fpn_convs.0.conv",
    "neck.fpn_convs.1",
    "backbone.layer1.0.conv2",
    "backbone.layer2.0.downsample.1",
    "rpn_head.rpn_conv",
    "roi_head.bbox_roi_extractor.0",
    "roi_head.semantic_roi_extractor.roi_layers.0",
    "roi_head.mask_head.1.conv_res.conv",
    "roi_head.semantic_head.lateral_convs.2",
    "roi_head.bbox_head.0.fc_cls",
)


def test_hooks_still_run():
    data, model, seen = cases.pictures(1), mmdetection.accelerate(cases.build("htc")), []
    before = cases.predict(model, data)
    for name in HOOKED:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    same(cases.predict(model, data), before)
    assert set(seen) == set(HOOKED)


def test_a_hook_on_a_whole_downsample_changes_what_follows():
    data, model = cases.pictures(1), cases.build("htc")
    usual = cases.predict(model, data)
    model.backbone.layer2[0].downsample.register_forward_hook(lambda module, given, out: out * 0)
    before = cases.predict(model, data)
    assert not torch.allclose(before[0].scores, usual[0].scores, atol=1e-3)
    same(cases.predict(mmdetection.accelerate(model), data), before)


@pytest.mark.parametrize("name", ["mask_rcnn", "htc"])
def test_mask_heads_whose_convolutions_change_their_weights(name):
    data, model = cases.pictures(1), cases.build(name)
    heads = model.roi_head.mask_head if name == "htc" else [model.roi_head.mask_head]
    for head in heads:
        for module in head.convs:
            plain = module.conv
            module.conv = MODELS.build(
                {"type": "ConvWS", "in_channels": plain.in_channels, "out_channels": plain.out_channels,
                 "kernel_size": 3, "padding": 1}
            )  # fmt: skip
    model.eval()
    before = cases.predict(model, data)
    same(cases.predict(mmdetection.accelerate(model), data), before)
    assert before[0].masks.any()


def test_pooled_features_flatten():
    swapped = mmdetection.accelerate(torch.nn.ModuleList([extractor()]))
    assert swapped[0](pyramid(), rois(9)).view(9, -1).shape == (9, 5 * 49)
    alone = mmdetection.SingleRoIExtractor(7, [4, 8, 16, 32], out_channels=5)
    assert alone(pyramid(), rois(9)).view(9, -1).shape == (9, 5 * 49)


def test_state_and_names_stay():
    model = cases.build("scnet")
    before = {name: one.clone() for name, one in model.state_dict().items()}
    cases.predict(mmdetection.accelerate(model), cases.pictures(1))
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], one) for name, one in before.items())


def test_under_autocast():
    data, model = cases.pictures(1), mmdetection.accelerate(cases.build("htc"))
    with torch.autocast("cpu", torch.bfloat16):
        [found] = cases.predict(model, data)
    assert found.scores.isfinite().all() and found.masks.shape[1:] == tuple(data["data_samples"][0].ori_shape)


def test_what_is_no_detector_of_mmdetection():
    with pytest.raises(ValueError, match="holds nothing to accelerate: expected a detector of mmdetection"):
        mmdetection.accelerate(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        mmdetection.accelerate(None)
