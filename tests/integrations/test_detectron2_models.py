"""detectron2's own detectors, with weights made up: the same detections and losses before and after `accelerate`."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from htc_fast.integrations import detectron2 as ours

detectron2 = pytest.importorskip("detectron2")
modeling = pytest.importorskip("detectron2.modeling")
config = pytest.importorskip("detectron2.config")
structures = pytest.importorskip("detectron2.structures")
events = pytest.importorskip("detectron2.utils.events")

MODELS = {
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "Faster R-CNN DC5": "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Mask R-CNN C4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "Mask R-CNN, one mask for all classes": "Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml",
    "Mask R-CNN, GN": "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
    "Cascade Mask R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Panoptic FPN": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "RPN": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
}
SHAPES = (96, 128), (112, 100)
ASKED = {"height": 150, "width": 190}


def build(name: str) -> nn.Module:
    """Small, and unsure enough of itself to find something of every class."""
    torch.manual_seed(0)
    settings = config.get_cfg()
    # Not through its model_zoo, which asks for setuptools' pkg_resources, gone by now.
    settings.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / MODELS[name]))
    settings.MODEL.DEVICE = "cpu"
    settings.MODEL.RESNETS.DEPTH, settings.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    settings.MODEL.RESNETS.RES5_DILATION = 1
    settings.MODEL.ROI_HEADS.NUM_CLASSES = settings.MODEL.RETINANET.NUM_CLASSES = 1 if "Keypoint" in name else 5
    settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.MODEL.RETINANET.SCORE_THRESH_TEST = 0.02
    settings.MODEL.RPN.PRE_NMS_TOPK_TEST = settings.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 200
    settings.MODEL.RPN.POST_NMS_TOPK_TEST = settings.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    settings.TEST.DETECTIONS_PER_IMAGE = 20
    model = modeling.build_model(settings).eval()
    layers = [(name.rsplit(".", 1)[-1], one) for name, one in model.named_modules()]
    handles = [one.register_forward_hook(spread(SPREAD[name])) for name, one in layers if name in SPREAD]
    with torch.no_grad():
        model(pictures())
    for handle in handles:
        handle.remove()
    return model


# How far a layer's outputs shall be from their mean: fresh heads find the same everywhere, and score it the same.
SPREAD = {"objectness_logits": 2.0, "anchor_deltas": 0.3, "cls_score": 2.0, "bbox_pred": 0.5, "score_lowres": 2.0}
SPREAD["predictor"] = 2.0


def spread(wanted: float):
    """A hook that gives its layer weights with which its first outputs are so far spread."""
    seen = set()

    def hook(layer, inputs, output):
        if layer not in seen and output.numel():
            seen.add(layer)
            layer.weight.mul_(wanted / output.std())
            return layer.forward(*inputs)
        return output

    return hook


def pictures(targets: bool = False) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for height, width in SHAPES:
        image = torch.randint(0, 256, (3, height, width), generator=generator).float()
        inputs.append({"image": image, **ASKED})
        if targets:
            inputs[-1] |= {"instances": truth(height, width), "sem_seg": torch.zeros(height, width, dtype=torch.int64)}
    return inputs


def truth(height: int, width: int):
    found = structures.Instances((height, width))
    found.gt_boxes = structures.Boxes(torch.tensor([[10.0, 12, 60, 70], [30, 20, 90, 88]]))
    found.gt_classes = torch.tensor([0, 0])
    found.gt_masks = structures.BitMasks(torch.ones(2, height, width, dtype=torch.bool))
    keypoints = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(2)) * 40 + 20
    keypoints[..., 2] = 2
    found.gt_keypoints = structures.Keypoints(keypoints)
    return found


def equal(found: dict, expected: dict) -> int:
    """How many instances; fails where anything differs."""
    assert found.keys() == expected.keys()
    count = 0
    for name, one in expected.items():
        if name == "panoptic_seg":
            assert (found[name][0] != one[0]).float().mean() < 1e-3 and len(found[name][1]) == len(one[1])
        elif name == "sem_seg":
            torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-4)
        else:
            assert found[name].image_size == one.image_size
            fields, wanted = found[name].get_fields(), one.get_fields()
            assert fields.keys() == wanted.keys()
            count += len(one)
            for field, value in wanted.items():
                value, own = (getattr(v, "tensor", v) for v in (value, fields[field]))
                assert own.dtype == value.dtype and own.shape == value.shape, field
                if field == "pred_masks":
                    assert value.any() and (own != value).float().mean() < 1e-3
                else:
                    torch.testing.assert_close(
                        own, value, rtol=1e-3, atol=1e-3, msg=lambda m, field=field: f"{field}: {m}"
                    )
    return count


@pytest.mark.parametrize("name", MODELS)
def test_same_detections_and_losses(name):
    model = build(name)
    classes, state = [type(one) for one in model.modules()], copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(pictures())
        expected_losses = losses(model)
        assert ours.accelerate(model) is model and ours.accelerate(model) is model
        changed = [type(one) for one in model.modules()]
        assert changed != classes and all(issubclass(*both) for both in zip(changed, classes))
        found = model(pictures())
        found_losses = losses(model)
        ours.restore(model)
        again = model(pictures())
    assert sum(equal(*both) for both in zip(found, expected)) >= 20
    assert sum(equal(*both) for both in zip(again, expected)) >= 20
    assert [type(one) for one in model.modules()] == classes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert found_losses.keys() == expected_losses.keys() and len(found_losses) >= 2
    for key, value in expected_losses.items():
        torch.testing.assert_close(found_losses[key], value, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def losses(model: nn.Module) -> dict:
    torch.manual_seed(5)
    with events.EventStorage():
        model.train()
        if hasattr(model, "loss_normalizer"):
            model.loss_normalizer = 100
        out = model(pictures(targets=True))
        model.eval()
    return out


def test_gradients_of_one_training_step():
    model = build("Mask R-CNN")
    torch.manual_seed(0)
    sum(losses(model).values()).backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    sum(losses(ours.accelerate(model)).values()).backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 20
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name
