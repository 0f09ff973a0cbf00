"""Our layers beside detectron2's own, where it is installed: pixels, features, instances, traces, errors."""

import copy
import pickle

import pytest
import torch
from torch import nn

from htc_fast.data.instances import Instances
from htc_fast.integrations import detectron2 as ours
from tests.integrations.test_detectron2_layers import some_masks
from tests.integrations.test_pooling import SCALES, boxes, pyramid

theirs = pytest.importorskip("detectron2.layers")
poolers = pytest.importorskip("detectron2.modeling.poolers")
structures = pytest.importorskip("detectron2.structures")


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.9, 0.3, 0.05, 0.0, -1.0])
def test_pasted_to_the_pixel(threshold):
    for seed, side in enumerate((28, 14, 7, 1, 28)):
        torch.manual_seed(seed)
        corners = torch.rand(60, 2) * 150  # detectron2 fails on boxes that are left of the image or above it
        found = torch.cat([corners, corners + 2 ** (torch.rand(60, 2) * 8)], dim=1)
        found = found.round() if seed == 4 else found  # pixels' centres on cells' borders
        masks = torch.rand(60, side, side) if seed % 2 else (torch.randn(60, side, side) * 4).sigmoid()
        expected = theirs.paste_masks_in_image(masks, structures.Boxes(found), (150, 180), threshold)
        result = ours.paste_masks_in_image(masks, structures.Boxes(found), (150, 180), threshold)
        assert expected.any() and result.dtype == expected.dtype
        assert (result != expected).sum() == 0


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("size, ratio, scales", [(7, 0, SCALES), (7, 2, SCALES), ((5, 9), 0, SCALES[1:2])])
def test_pooler(kind, size, ratio, scales):
    maps = pyramid()[: len(scales)] if len(scales) > 1 else pyramid()[1:2]
    lists = [structures.Boxes(boxes(80, 1)), structures.Boxes(boxes(50, 9))]
    lists[0].tensor[:2] = torch.tensor([[30.0, 2, 3, 40], [5, 5, 5, 5]])  # turned inside out, and empty
    expected = poolers.ROIPooler(size, scales, ratio, kind)(maps, lists)
    found = ours.ROIPooler(size, scales, ratio, kind)(maps, lists)
    assert found.stride() == expected.stride() and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pooler_gradients():
    given = [[one.requires_grad_() for one in pyramid()] for _ in range(2)]
    lists, gradients = [structures.Boxes(boxes(20, 1)), structures.Boxes(boxes(9, 3))], []
    for maps, module in zip(given, (poolers.ROIPooler, ours.ROIPooler)):
        module(7, SCALES, 2, "ROIAlignV2")(maps, lists).square().sum().backward()
        gradients.append([one.grad for one in maps])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)


def test_errors_where_detectron2_asserts():
    modules = [one.ROIPooler(7, SCALES, 0, "ROIAlign") for one in (poolers, ours)]
    one = structures.Boxes(boxes(3, 0))
    for arguments in ((pyramid(), [one]), (pyramid(), [one] * 3), (pyramid(), [])):
        for module in modules:
            with pytest.raises(AssertionError):
                module(*arguments)
    for module in (poolers.ROIPooler, ours.ROIPooler):
        with pytest.raises(ValueError, match="type"):
            module(7, SCALES, 0, "nothing")
        with pytest.raises(AssertionError):
            module(7, [1 / 4, 1 / 16], 0, "ROIAlign")
    for module in (theirs.ROIAlign, ours.ROIAlign):
        assert repr(module((7, 7), 0.25, 2)) == repr(theirs.ROIAlign((7, 7), 0.25, 2))
        with pytest.raises(AssertionError):
            module((7, 7), 0.25, 2)(pyramid()[0], torch.zeros(3, 4))


@pytest.mark.parametrize("count", [2000, 41000])
def test_batched_nms(count):
    torch.manual_seed(0)
    found = torch.rand(count, 4) * 100
    found[:, 2:] += found[:, :2]
    scores, classes = torch.randperm(count) / count, torch.randint(0, 50, (count,))
    expected = theirs.batched_nms(found, scores, classes, 0.5)
    assert torch.equal(ours.batched_nms(found, scores, classes, 0.5), expected) and len(expected) > 50


def test_accelerated_pooler_traces_with_detectron2s_boxes():
    pooler, maps = ours.accelerate(poolers.ROIPooler(7, SCALES, 0, "ROIAlignV2")), pyramid()

    class Pool(nn.Module):
        def forward(self, first, second):
            return pooler(maps, [structures.Boxes(first), structures.Boxes(second)])

    traced = torch.jit.trace(Pool(), (boxes(3, 0), boxes(4, 1)))
    given = boxes(30, 5), boxes(2, 6)
    expected = ours.restore(pooler)(maps, [structures.Boxes(one) for one in given])
    torch.testing.assert_close(traced(*given), expected, rtol=1e-4, atol=1e-4)


def test_accelerate_by_class():
    part = nn.Sequential(poolers.ROIPooler(7, SCALES, 0, "ROIAlignV2"))
    part[0].register_forward_hook(lambda module, inputs, output: output + 1)
    lists = [structures.Boxes(boxes(20, 1)), structures.Boxes(boxes(9, 3))]
    expected = part[0](pyramid(), lists)
    assert isinstance(ours.accelerate(part)[0], poolers.ROIPooler) and type(part[0]) is not poolers.ROIPooler
    torch.testing.assert_close(part[0](pyramid(), lists), expected, rtol=1e-4, atol=1e-4)
    assert type(copy.deepcopy(part)[0]) is type(part[0])
    part[0]._forward_hooks.clear()
    assert type(pickle.loads(pickle.dumps(part))[0]) is type(part[0])
    rotated = poolers.ROIPooler(7, SCALES, 0, "ROIPool")
    assert ours.accelerate(rotated)(pyramid(), lists).shape == (29, 5, 7, 7)
    with pytest.raises(ValueError, match=r"Linear holds nothing to accelerate: expected a detector of detectron2\."):
        ours.accelerate(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got 'mask_rcnn'"):
        ours.accelerate("mask_rcnn")


@torch.no_grad()
def test_convolutions_follow_their_weights_and_norms():
    torch.manual_seed(0)
    norm = theirs.FrozenBatchNorm2d(32)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).copy_(torch.rand(32) + 0.5)
    part = nn.Sequential(
        theirs.Conv2d(16, 32, 3, padding=1, bias=False, norm=norm),
        theirs.Conv2d(32, 32, 3, padding=1, activation=nn.ReLU()),
        theirs.Conv2d(32, 32, 3, padding=2, dilation=2, norm=theirs.FrozenBatchNorm2d(32)),
        theirs.Conv2d(32, 32, 3, padding=1, norm=theirs.get_norm("GN", 32)),
    ).eval()
    x = torch.randn(2, 16, 13, 17)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        return ours.accelerate(part)(x), ours.restore(part)(x)

    for change in (
        lambda: None,
        lambda: part[0].weight.mul_(torch.rand(32, 16, 3, 3)),
        lambda: norm.running_mean.add_(torch.rand(32)),
        lambda: part[1].bias.copy_(torch.rand(32)),
    ):
        before = part(x)
        ours.accelerate(part)(x)
        change()  # between two calls
        found, expected = both()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (before - expected).abs().max() > 1e-2
    with torch.enable_grad():
        assert ours.accelerate(part)(x).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours.accelerate(part)(x), ours.restore(part)(x))


def test_instances_there_and_back():
    masks, found = some_masks()
    given = structures.Instances((60, 80), pred_boxes=structures.Boxes(found), scores=torch.rand(12))
    given.pred_classes = torch.arange(12)
    with pytest.raises(ValueError, match="found holds no masks"):
        ours.from_instances(given)
    bitmasks = theirs.paste_masks_in_image(masks, structures.Boxes(found), (60, 80))
    results = []
    for own in (bitmasks, structures.BitMasks(bitmasks), structures.ROIMasks(masks), masks[:, None]):
        given.pred_masks = own
        results.append(ours.from_instances(given, ["a", "b"]))
        assert isinstance(results[-1], Instances) and torch.equal(results[-1].masks, bitmasks)
        assert results[-1].size == (60, 80) and results[-1].name(1) == "b"
    back = ours.to_instances(results[0])
    assert isinstance(back, structures.Instances) and back.image_size == (60, 80) and bitmasks.any()
    assert torch.equal(back.pred_masks, bitmasks) and torch.equal(back.pred_boxes.tensor, found)
    assert torch.equal(back.scores, given.scores) and torch.equal(back.pred_classes, given.pred_classes)
    as_rle = ours.to_instances(results[0], masks="rle")
    assert not as_rle.has("pred_masks") and torch.equal(ours.from_instances(as_rle).masks, bitmasks)
    assert not ours.to_instances(results[0], masks=None).has("pred_masks_rle")
    none = ours.from_instances(given[:0])
    assert len(none) == 0 and len(ours.to_instances(none)) == 0
    given.pred_masks = bitmasks[:, :50]
    with pytest.raises(ValueError, match=r"pred_masks must be \[n, H, W\] with \[60, 80\]"):
        ours.from_instances(given)
    for whole in (bitmasks.to(torch.uint8), bitmasks.float()):
        given.pred_masks = whole
        with pytest.raises(ValueError, match="pred_masks of whole images must be bool"):
            ours.from_instances(given)
    with pytest.raises(TypeError, match="found must be detectron2's Instances with image_size"):
        ours.from_instances([given])
    with pytest.raises(TypeError, match="one picture's instances"):
        ours.to_instances(given)
    with pytest.raises(ValueError, match="masks must be 'bool', 'rle' or None"):
        ours.to_instances(results[0], masks="all")
