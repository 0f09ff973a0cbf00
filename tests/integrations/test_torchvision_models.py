"""Every detector of torchvision, accelerated: the same detections, losses and gradients, and back."""

import copy
import io
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection

from htc_fast.integrations.torchvision import MultiScaleRoIAlign, accelerate, restore
from tests.integrations.torchvision_cases import MODELS, made, paired, pictures, step

QUICK = ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large")


def models(*quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", models(*QUICK, "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"))
def test_detections(name):
    model, given = made(name), pictures()
    kinds = [type(one) for one in model.modules()]
    with torch.inference_mode():
        before = model(given)
        assert accelerate(model) is model and isinstance(model, kinds[0]) and type(model) is not kinds[0]
        found = model(given)
    with torch.no_grad():
        again = model(given)
    assert accelerate(model) is model and restore(model) is model
    assert [type(one) for one in model.modules()] == kinds
    for one, other, wanted in zip(found, again, before):
        assert len(wanted["boxes"]) == (20 if "rcnn" in name else 30) and list(one) == list(wanted)
        torch.testing.assert_close(one["scores"], wanted["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(paired(one, wanted), wanted, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("name", models(*QUICK))
def test_training_step(name):
    model = made(name)
    losses, gradients = step(accelerate(copy.deepcopy(model)))
    wanted, expected = step(model)
    assert len(wanted) >= 2 and len(expected) > 60 and set(gradients) == set(expected)
    torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-4)
    for key, one in expected.items():
        # Rounding turns a ReLU off here and there; of a bias in front of a norm the gradient is rounding alone.
        apart, least = float((gradients[key] - one).norm()), 2e-4 * one.numel() ** 0.5
        assert apart <= 2e-3 * float(one.norm()) + least, f"{key}: {apart} apart"


@pytest.fixture(scope="module")
def mask_rcnn():
    return accelerate(made("maskrcnn_resnet50_fpn"))


def same(model, other):
    with torch.inference_mode():
        torch.testing.assert_close(other(pictures(1)), model(pictures(1)), rtol=1e-3, atol=1e-3)


def test_copies_and_files(mask_rcnn):
    same(mask_rcnn, copy.deepcopy(mask_rcnn))
    same(mask_rcnn, pickle.loads(pickle.dumps(mask_rcnn)))
    file = io.BytesIO()
    torch.save(mask_rcnn, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    same(mask_rcnn, loaded)
    assert type(loaded) is type(mask_rcnn)
    theirs = made("maskrcnn_resnet50_fpn")
    assert list(theirs.state_dict()) == list(mask_rcnn.state_dict())
    theirs.load_state_dict(mask_rcnn.state_dict())
    same(mask_rcnn, theirs)


def test_weights_may_change(mask_rcnn):
    model = copy.deepcopy(mask_rcnn)
    with torch.inference_mode():
        before = model(pictures(1))[0]["scores"]
    with torch.no_grad():
        model.backbone.body.conv1.weight.mul_(1.5)
        model.backbone.body.layer1[0].bn2.bias.add_(0.3)
        after = model(pictures(1))[0]
        restore(model)
        wanted = model(pictures(1))[0]
    assert not torch.allclose(before, wanted["scores"], atol=1e-3)
    torch.testing.assert_close(paired(after, wanted), wanted, rtol=1e-3, atol=2e-3)


def test_hooks_are_called(mask_rcnn):
    model, seen = copy.deepcopy(mask_rcnn), []
    names = ("backbone.body.layer1.0.conv2", "backbone.body.layer2.0.bn1", "roi_heads.mask_head.0.0")
    names += ("roi_heads.mask_predictor.conv5_mask", "roi_heads.box_roi_pool", "rpn.anchor_generator", "backbone.fpn")
    modules = dict(model.named_modules())
    for name in names:
        modules[name].register_forward_hook(lambda *_, name=name: seen.append(name))
    same(mask_rcnn, model)
    assert set(seen) == set(names)
    seen.clear()
    every = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    with torch.inference_mode():
        mask_rcnn(pictures(1))
    every.remove()
    assert seen.count(nn.Conv2d) > 60 and seen.count(nn.BatchNorm2d) > 50


@pytest.mark.parametrize("name", models(*QUICK))
def test_script(name):
    model, given = accelerate(made(name)), pictures()
    kinds = [type(one) for one in model.modules()]
    with torch.inference_mode():
        scripted = torch.jit.script(model)
        assert [type(one) for one in model.modules()] == kinds
        for one, wanted in zip(scripted(given)[1], model(given)):
            assert set(one) == set(wanted) and len(wanted["boxes"]) > 0
            torch.testing.assert_close(paired(one, wanted), wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("part", ["backbone", pytest.param("whole", marks=pytest.mark.slow)])
def test_compile(mask_rcnn, part):
    model, given = copy.deepcopy(mask_rcnn), pictures()
    compiled = model
    torch._dynamo.reset()
    if part == "whole":
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.backbone.compile(backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        wanted = mask_rcnn(given)
        found = compiled(given)
    for one, other in zip(found, wanted):
        assert len(other["boxes"]) == 20
        torch.testing.assert_close(paired(one, other), other, rtol=1e-3, atol=2e-3)


class Outputs(nn.Module):
    """A tracer wants tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, picture):
        [found] = self.model([picture])
        return found["boxes"], found["labels"], found["scores"], found["masks"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_trace(mask_rcnn):
    [picture] = pictures(1)
    with torch.no_grad():
        traced = torch.jit.trace(Outputs(mask_rcnn), picture, check_trace=False)
        for given in (picture, picture.flip(2) * 0.7):
            [wanted] = mask_rcnn([given])
            found = dict(zip(("boxes", "labels", "scores", "masks"), traced(given)))
            assert len(wanted["boxes"]) == 20
            torch.testing.assert_close(paired(found, wanted), wanted, rtol=1e-3, atol=2e-3)


def test_autocast(mask_rcnn):
    theirs = restore(copy.deepcopy(mask_rcnn))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = mask_rcnn(pictures(1))[0], theirs(pictures(1))[0]
    assert len(found["boxes"]) == len(wanted["boxes"]) == 20
    torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0.02, atol=0.02)


def test_nothing_found(mask_rcnn):
    model = copy.deepcopy(mask_rcnn)
    model.roi_heads.score_thresh = 1.0
    with torch.inference_mode():
        [found], [wanted] = model(pictures(1)), restore(model)(pictures(1))
    assert found["masks"].shape == (0, 1, 120, 150) and found["boxes"].shape == (0, 4)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("layer", ["roi_heads.box_predictor.bbox_pred", "rpn.head.bbox_pred", "rpn.head.cls_logits"])
@pytest.mark.parametrize("times", [8, 30])
def test_wild_boxes_and_scores(layer, times):
    """Out of the picture, without width, a hundredth of their anchor, all of one score."""
    model, given = made("fasterrcnn_mobilenet_v3_large_320_fpn"), pictures()
    with torch.no_grad():
        model.get_submodule(layer).weight.mul_(times)
        wanted = model(given)
        found = accelerate(model)(given)
    for one, other in zip(found, wanted):
        assert len(other["boxes"]) > 2 and len(one["boxes"]) == len(other["boxes"])
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(paired(one, other), other, rtol=1e-3, atol=5e-3)


def test_models_built_with_our_pooling():
    options = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 128}
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    torch.manual_seed(0)
    model = detection.fasterrcnn_resnet50_fpn(**options, box_roi_pool=pool).eval()
    torch.manual_seed(0)
    wanted = detection.fasterrcnn_resnet50_fpn(**options).eval()
    assert model.roi_heads.box_roi_pool is pool and isinstance(pool, torchvision.ops.MultiScaleRoIAlign)
    feats = torch.rand(1, 3, 128, 160)
    with torch.inference_mode():
        maps = wanted.backbone(feats)
        boxes = [torch.tensor([[3.0, 5, 60, 90], [0, 0, 150, 120]])]
        args = maps, boxes, [(128, 160)]
        torch.testing.assert_close(model.roi_heads.box_roi_pool(*args), wanted.roi_heads.box_roi_pool(*args))


def test_what_is_no_detector():
    with pytest.raises(ValueError, match="Sequential holds nothing to accelerate: expected a detector of torchvision"):
        accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got "):
        accelerate("maskrcnn_resnet50_fpn")
    assert type(restore(nn.Sequential(nn.ReLU()))) is nn.Sequential
