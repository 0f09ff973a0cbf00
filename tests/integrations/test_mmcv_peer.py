"""mmcv itself, from its Python files alone, with these operators: skipped where it is not installed."""

import numpy as np
import pytest
import torch
import torchvision
from torch.autograd import gradcheck

from htc_fast import ops
from htc_fast.integrations import mmcv as ours

pytest.importorskip("mmcv", reason="mmcv is not installed: pip install onedl-mmcv onedl-mmengine")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def mmcv_ops():
    ours.install()
    return pytest.importorskip("mmcv.ops")


def some(count: int):
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 200
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 90], dim=1)
    return boxes, torch.randperm(count, generator=generator) / count


def test_every_operator_that_mmcv_asks_for_is_there(mmcv_ops):
    assert {"RoIAlign", "batched_nms", "DeformConv2d", "PrRoIPool", "SigmoidFocalLoss"} <= set(mmcv_ops.__all__)
    assert mmcv_ops.get_compiler_version().startswith("none (htc_fast's operators")
    with pytest.raises(RuntimeError, match="mmcv's operator box_iou_rotated is not among"):
        mmcv_ops.box_iou_rotated(torch.rand(1, 5), torch.rand(1, 5))


def test_batched_nms(mmcv_ops):
    boxes, scores = some(300)
    classes = torch.arange(300) % 7
    options = {"type": "nms", "iou_threshold": 0.4, "score_threshold": 0.2, "max_num": 20}
    dets, kept = mmcv_ops.batched_nms(boxes, scores, classes, dict(options))
    good = (scores > 0.2).nonzero()[:, 0]
    expected = good[ops.batched_nms(boxes[good], scores[good], classes[good], 0.4)][:20]
    assert torch.equal(kept, expected) and torch.equal(dets[:, :4], boxes[expected])
    split = mmcv_ops.batched_nms(boxes, scores, classes, dict(options, split_thr=10))
    assert torch.equal(split[1], kept)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_of_arrays_and_tensors(mmcv_ops, method):
    boxes, scores = some(60)
    dets, kept = mmcv_ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method)
    same, also = mmcv_ops.soft_nms(boxes.numpy(), scores.numpy(), 0.3, 0.5, 0.05, method)
    assert isinstance(same, np.ndarray) and np.array_equal(also, kept.numpy()) and np.allclose(same, dets.numpy())
    assert dets.shape == (len(kept), 5) and (dets[1:, 4] <= dets[:-1, 4]).all() and 0 < len(kept) <= 60


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mmcv_ops, mode):
    maps = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.5, 2, 14, 9], [1, 3, 3, 3, 3]], dtype=torch.float64)
    layer = mmcv_ops.RoIAlign(2, 0.5, 2, mode)
    assert gradcheck(lambda maps: layer(maps, rois), maps)
    if mode == "avg":
        torch.testing.assert_close(
            layer(maps, rois), torchvision.ops.roi_align(maps, rois, 2, 0.5, 2, True), atol=1e-5, rtol=0
        )


def test_prroi_pool_in_the_boxes(mmcv_ops):
    maps, rois = torch.randn(1, 2, 6, 6), torch.tensor([[0, 0.5, 1, 4, 5]], requires_grad=True)
    mmcv_ops.prroi_pool(maps, rois, (2, 2), 1.0).square().sum().backward()
    with ops.use_backend("reference"):
        again = rois.detach().requires_grad_()
        ops.pr_roi_pool([maps], again, 2, [1.0]).square().sum().backward()
    torch.testing.assert_close(rois.grad, again.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution(mmcv_ops, modulated):
    kind = mmcv_ops.ModulatedDeformConv2d if modulated else mmcv_ops.DeformConv2d
    layer = kind(4, 6, 3, padding=1, groups=2, deform_groups=2).double()
    read = [torch.randn(1, 4, 5, 5), torch.rand(1, 36, 5, 5) * 0.8 + 0.1, torch.rand(1, 18, 5, 5)][: 2 + modulated]
    read = [one.double().requires_grad_() for one in read]
    out = layer(*read)
    expected = torchvision.ops.deform_conv2d(
        *read[:2], layer.weight, layer.bias if modulated else None, padding=1, mask=read[2] if modulated else None
    )
    torch.testing.assert_close(out, expected)
    inputs = [*read, *layer.parameters()]
    grads = [torch.autograd.grad(one.square().sum(), inputs) for one in (out, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("deform", [False, True])
def test_switchable_atrous_convolution(mmcv_ops, deform):
    layer = mmcv_ops.SAConv2d(4, 6, 3, padding=1, use_deform=deform)
    torch.nn.init.constant_(layer.switch.bias, 0.5)  # both of its convolutions count
    maps = torch.randn(1, 4, 9, 9, requires_grad=True)
    layer(maps).sum().backward()
    assert maps.grad.isfinite().all() and layer.weight_diff.grad.abs().sum() > 0


def test_focal_losses(mmcv_ops):
    logits, target = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 3, 1])
    assert gradcheck(lambda one: mmcv_ops.sigmoid_focal_loss(one, target, 2.0, 0.25, None, "none"), logits)
    expected = torchvision.ops.sigmoid_focal_loss(logits, torch.eye(4)[target, :3].double(), 0.25, 2.0, "sum")
    torch.testing.assert_close(mmcv_ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "sum"), expected)
    assert gradcheck(lambda one: mmcv_ops.softmax_focal_loss(one, target.clamp(max=2)), logits)


def test_masked_convolution(mmcv_ops):
    layer, maps, mask = mmcv_ops.MaskedConv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 9), torch.rand(1, 9, 9) > 0.5
    torch.testing.assert_close(layer(maps, mask), layer(maps) * mask)


def test_deformable_attention(mmcv_ops):
    attention = pytest.importorskip("mmcv.ops.multi_scale_deform_attn")
    shapes, start = torch.tensor([[3, 4], [2, 1]]), torch.tensor([0, 12])
    value, at, weights = torch.randn(2, 14, 2, 3), torch.rand(2, 3, 2, 2, 2, 2), torch.rand(2, 3, 2, 2, 2)
    found = attention.MultiScaleDeformableAttnFunction.apply(value, shapes, start, at, weights, 64)
    torch.testing.assert_close(found, attention.multi_scale_deformable_attn_pytorch(value, shapes, at, weights))
