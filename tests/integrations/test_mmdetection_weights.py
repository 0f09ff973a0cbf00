"""Our models inside mmdetection: it loads what `to_mmdetection` gives, strictly, and detects the same."""

# ruff: noqa: E402 - mmdetection must not be imported before its operators are there

import importlib.util

import pytest
import torch

if importlib.util.find_spec("mmdet") is None:
    pytest.skip("mmdetection is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from htc_fast.integrations import mmcv

mmcv.install()

from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config

import htc_fast
from htc_fast.models.weights.mmdetection import to_mmdetection
from tests.integrations.mmdetection_cases import CONFIGS

SIZE = (160, 224)
OPTIONS = {"num_classes": 5, "score_threshold": 0.0, "rpn_proposals": 40, "detections": 15, "box_channels": 96}
NAMES = {
    "htc_r50": {"semantic_classes": 7},
    "htc_r50_nosem": {"soft_nms": True},
    "cascade_mask_r50": {"roi_samples": 2, "roi_aligned": False},
    "mask_rcnn_r50": {"stride_in_1x1": True, "mean": (120.0, 110.0, 100.0), "std": (50.0, 60.0, 70.0)},
    "scnet_r50": {"semantic_classes": 7},
    "detectors_htc_r50": {"semantic_classes": 7},
    "htc_r50_dcn": {"semantic_classes": 7, "semantic": "mask"},
}


def ours(name: str):
    torch.manual_seed(0)
    model = htc_fast.create_model(name, **OPTIONS, **NAMES[name]).eval()
    with torch.no_grad():  # scores that differ, boxes that move
        for key, value in model.state_dict().items():
            if key.startswith("box_heads.") and key.endswith(("classes.weight", "deltas.weight")):
                value.mul_(20 if "classes" in key else 5)
            elif "offset.weight" in key:
                value.normal_(std=0.01)
    return model


def configured(found) -> Config:
    config = Config.fromfile(str(CONFIGS / f"{found.config}.py"))
    config.merge_from_dict(found.options)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_the_same_detections(name):
    register_all_modules()
    model = ours(name)
    found = to_mmdetection(model)
    theirs = MODELS.build(configured(found).model).eval()
    assert str(theirs.load_state_dict(found.state, strict=True)) == "<All keys matched successfully>"
    sample = DetDataSample(metainfo={"img_shape": SIZE, "ori_shape": SIZE, "scale_factor": (1.0, 1.0)})
    pixels = torch.randint(256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = theirs.data_preprocessor({"inputs": [pixels], "data_samples": [sample]}, False)
        [expected] = theirs.predict(data["inputs"], data["data_samples"], rescale=False)
        detected = model.detect(data["inputs"], torch.tensor([SIZE]))
        rgb = pixels.flip(0).permute(1, 2, 0).numpy()
        [instances] = model.predict(rgb, size=SIZE, score_threshold=0.0)
    expected, count = expected.pred_instances, int(detected.count[0])
    assert count == len(expected) == 15 and detected.labels[0].tolist() == expected.labels.tolist()
    torch.testing.assert_close(detected.boxes[0], expected.bboxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(detected.scores[0], expected.scores, rtol=0, atol=1e-4)
    if "htc" not in name:  # whose masks mmdetection 3 takes from the last stage alone, the paper from all three
        masks = torch.stack([torch.as_tensor(one) for one in instances.masks]) == expected.masks
        assert instances.labels.tolist() == expected.labels.tolist() and masks.float().mean() > 0.999


def test_a_converted_file_is_a_checkpoint_there(tmp_path):
    model = ours("mask_rcnn_r50")
    found = to_mmdetection(model)
    torch.save(found.checkpoint(["a", "b", "c", "d", "e"]), tmp_path / "theirs.pth")
    theirs = init_detector(configured(found), str(tmp_path / "theirs.pth"), device="cpu", palette="random")
    assert theirs.dataset_meta["classes"] == ("a", "b", "c", "d", "e")
    assert theirs.rpn_head.rpn_cls.weight.equal(model.rpn.objectness.weight)
