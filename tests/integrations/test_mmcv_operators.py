"""mmcv's operators that it has on GPUs only, and what it does not define: held to definitions written out here."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast import ops
from htc_fast.integrations.mmcv import OPERATORS

SMALLEST = torch.finfo(torch.float32).tiny


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def filled(name: str, read: dict, fill: dict, **numbers) -> dict:
    """What an operator fills; `fill` has what each holds at first."""
    fill = {key: one.clone() for key, one in fill.items()}
    OPERATORS[name](**read, **fill, **numbers)
    return fill


def rois(dtype=torch.float32) -> torch.Tensor:
    boxes = [[0, 0.3, 1.2, 9.1, 7.7], [1, 2, 2, 2, 2], [0, -4, -5, 3.5, 20], [1, 6, 3, 4, 8], [1, 30, 30, 40, 41]]
    return torch.tensor(boxes, dtype=dtype)


def largest_pixels(maps, boxes, size, scale):
    """RoIPool, pixel by pixel: output and places."""
    out, places = torch.zeros(len(boxes), maps.shape[1], *size), torch.zeros(len(boxes), maps.shape[1], *size)
    for k, c, y, x in itertools.product(range(len(boxes)), range(maps.shape[1]), range(size[0]), range(size[1])):
        image, x1, y1, x2, y2 = boxes[k].tolist()
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        high, wide = (y2 - y1) / size[0], (x2 - x1) / size[1]
        rows = range(max(math.floor(y1 + y * high), 0), min(math.ceil(y1 + (y + 1) * high), maps.shape[2]))
        columns = range(max(math.floor(x1 + x * wide), 0), min(math.ceil(x1 + (x + 1) * wide), maps.shape[3]))
        pixels = [(maps[int(image), c, i, j].item(), i * maps.shape[3] + j) for i in rows for j in columns]
        out[k, c, y, x], places[k, c, y, x] = max(pixels, key=lambda one: one[0]) if pixels else (0, -1)
    return out, places.int()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_roi_pool(scale):
    maps, size = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)).round(decimals=1), (3, 2)
    out, places = largest_pixels(maps, rois(), size, scale)
    empty = {"output": torch.zeros_like(out), "argmax": torch.zeros_like(places)}
    numbers = {"pooled_height": 3, "pooled_width": 2, "spatial_scale": scale}
    found = filled("roi_pool_forward", {"input": maps, "rois": rois()}, empty, **numbers)
    assert torch.equal(found["output"], out) and torch.equal(found["argmax"], places)
    read = {"grad_output": torch.ones_like(out), "rois": rois(), "argmax": places}
    grad = filled("roi_pool_backward", read, {"grad_input": torch.zeros_like(maps)}, **numbers)["grad_input"]
    # A box that is none (the fourth) left the place 0 as it was, and mmcv then adds there too.
    assert grad.sum() == (places >= 0).sum() and grad[0].max() >= 2


def test_roi_align_is_torchvisions():
    maps = torch.randn(2, 3, 8, 9)
    numbers = {"aligned_height": 2, "aligned_width": 3, "spatial_scale": 0.5, "sampling_ratio": 0, "pool_mode": 1}
    fill = {"output": torch.full((5, 3, 2, 3), 9.0), "argmax_y": maps[:0], "argmax_x": maps[:0]}
    for aligned in (True, False):
        found = filled("roi_align_forward", {"input": maps, "rois": rois()}, fill, aligned=aligned, **numbers)
        expected = torchvision.ops.roi_align(maps, rois(), (2, 3), 0.5, -1, aligned)
        torch.testing.assert_close(found["output"], expected)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_gradients_of_both_backends(backend):
    maps, grad = torch.randn(2, 3, 8, 9), torch.randn(5, 3, 2, 3)
    numbers = {"aligned_height": 2, "aligned_width": 3, "spatial_scale": 0.5, "sampling_ratio": 0, "pool_mode": 1}
    read = {"grad_output": grad, "rois": rois(), "argmax_y": maps[:0], "argmax_x": maps[:0]}
    maps.requires_grad_()
    expected = torch.autograd.grad(torchvision.ops.roi_align(maps, rois(), (2, 3), 0.5, -1, True), maps, grad)[0]
    with ops.use_backend(backend):
        # What is there already stays: gradients are added.
        one = {"grad_input": torch.ones_like(maps).detach()}
        found = filled("roi_align_backward", read, one, aligned=True, **numbers)
    torch.testing.assert_close(found["grad_input"], expected + 1)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_pr_roi_pool(backend):
    maps, boxes = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True), rois(torch.float64).requires_grad_()
    with ops.use_backend("reference"):
        out = ops.pr_roi_pool([maps], boxes, (2, 3), [0.5])
    grad = torch.randn(out.shape, dtype=torch.float64)
    by_maps, by_boxes = (one.float() for one in torch.autograd.grad(out, (maps, boxes), grad))
    maps, grad, out = maps.detach().float(), grad.float(), out.detach().float()
    numbers = {"pooled_height": 2, "pooled_width": 3, "spatial_scale": 0.5}
    with ops.use_backend(backend):
        found = filled("prroi_pool_forward", {"features": maps, "rois": rois()}, {"output": out * 0}, **numbers)
        more = {"grad_output": grad, "rois": rois()}
        found |= filled("prroi_pool_backward", more, {"grad_input": maps * 0}, **numbers)
        more |= {"output": out, "features": maps}
        found |= filled("prroi_pool_coor_backward", more, {"grad_rois": torch.zeros(5, 5)}, **numbers)
    for key, one in (("output", out), ("grad_input", by_maps), ("grad_rois", by_boxes)):
        torch.testing.assert_close(found[key], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.5, 0.75), (0.0, 0.5)])
@pytest.mark.parametrize("weighted", [True, False])
def test_sigmoid_focal_loss(gamma, alpha, weighted):
    logits = (torch.randn(6, 3) * 2).double().requires_grad_()
    target, weight = torch.tensor([0, 1, 2, 2, 3, 3]), torch.tensor([0.5, 2.0, 3.0]) if weighted else torch.zeros(0)
    chosen = F.one_hot(target, 4)[:, :3].double()
    p = logits.sigmoid()
    right, share = chosen * p + (1 - chosen) * (1 - p), chosen * alpha + (1 - chosen) * (1 - alpha)
    rows = torch.tensor([0.5, 2.0, 3.0, 3.0, 1.0, 1.0]) if weighted else torch.ones(6)
    loss = -share * (1 - right) ** gamma * right.log() * rows[:, None]
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    read = {"input": logits.detach().float(), "target": target, "weight": weight}
    fill = {"output": torch.zeros(6, 3)}
    found = filled("sigmoid_focal_loss_forward", read, fill, gamma=gamma, alpha=alpha)["output"]
    torch.testing.assert_close(found, loss.detach().float(), rtol=1e-4, atol=1e-6)
    fill = {"grad_input": torch.zeros(6, 3)}
    found = filled("sigmoid_focal_loss_backward", read, fill, gamma=gamma, alpha=alpha)["grad_input"]
    torch.testing.assert_close(found, grad.float(), rtol=1e-4, atol=1e-6)


def test_sigmoid_focal_loss_of_sure_scores_is_finite():
    read = {"input": torch.tensor([[200.0, -200.0]]), "target": torch.tensor([1]), "weight": torch.zeros(0)}
    found = filled("sigmoid_focal_loss_forward", read, {"output": torch.zeros(1, 2)}, gamma=2.0, alpha=0.25)["output"]
    expected = torch.tensor([[-0.75 * math.log(SMALLEST), -0.25 * math.log(SMALLEST)]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weighted", [True, False])
def test_softmax_focal_loss(weighted):
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target, weight = torch.tensor([0, 1, 2, 2, -1]), torch.tensor([0.5, 2.0, 3.0]) if weighted else torch.zeros(0)
    rows = torch.tensor([0.5, 2.0, 3.0, 3.0, 0.0]) if weighted else torch.tensor([1.0, 1, 1, 1, 0])
    p = logits.softmax(dim=1)[range(5), target.clamp(min=0)]
    loss = -0.25 * (1 - p) ** 1.5 * p.log() * rows
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    read = {"input": logits.detach().softmax(dim=1).float(), "target": target, "weight": weight}
    found = filled("softmax_focal_loss_forward", read, {"output": torch.zeros(5)}, gamma=1.5, alpha=0.25)["output"]
    torch.testing.assert_close(found, loss.detach().float())
    fill = {"buff": torch.zeros(5), "grad_input": torch.zeros(5, 3)}
    found = filled("softmax_focal_loss_backward", read, fill, gamma=1.5, alpha=0.25)["grad_input"]
    torch.testing.assert_close(found, grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [0, 1, 2])
def test_soft_nms_keeps_the_best_box_whatever_it_scores(method):
    boxes, dets = torch.tensor([[0.0, 0, 9, 9], [40, 40, 50, 50], [0, 0, 9, 9]]), torch.zeros(3, 5)
    numbers = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.9, "method": method, "offset": 0}
    kept = OPERATORS["softnms"](boxes, torch.tensor([0.3, 0.6, 0.2]), dets, **numbers)
    assert kept.tolist() == [1] and dets[0].tolist() == pytest.approx([40, 40, 50, 50, 0.6])


def test_nothing_to_suppress():
    boxes, scores, dets = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 5)
    assert OPERATORS["nms"](boxes, scores, iou_threshold=0.5, offset=0).dtype == torch.int64
    numbers = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.0, "method": 1, "offset": 0}
    assert OPERATORS["softnms"](boxes, scores, dets, **numbers).shape == (0,)
    assert OPERATORS["nms_match"](dets, iou_threshold=0.5) == []


def test_thresholds_are_numbers_in_float32():
    """An IoU of exactly 3 / 10: no more than 0.3 in float32, where 0.3 is a little more than 0.3."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])
    assert OPERATORS["nms"](boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.3, offset=0).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_deformable_convolution_in_16_bits(dtype):
    maps, weight, offset = torch.randn(1, 2, 6, 6), torch.randn(2, 2, 3, 3), torch.randn(1, 18, 6, 6)
    offset[0, 0, 0, 0] = torch.nan  # counts as 0
    wide = [one.to(dtype).float() for one in (maps, weight, offset.nan_to_num(0.0))]
    expected = torchvision.ops.deform_conv2d(wide[0], wide[2], wide[1], padding=1)
    read = {"input": maps.to(dtype), "weight": weight.to(dtype), "offset": offset.to(dtype)}
    read |= {"columns": maps[:0], "ones": maps[:0]}
    geometry = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1, "dilationW": 1, "dilationH": 1}
    fill = {"output": torch.zeros(1, 2, 6, 6, dtype=dtype)}
    numbers = {**geometry, "group": 1, "deformable_group": 1, "im2col_step": 1}
    found = filled("deform_conv_forward", read, fill, **numbers)["output"]
    torch.testing.assert_close(found, expected.to(dtype))


def test_both_gradients_of_a_deformable_convolution_from_one_pass():
    """As mmcv's autograd function calls them, one after the other; and alone."""
    maps, weight, offset = torch.randn(1, 2, 6, 6), torch.randn(2, 2, 3, 3), torch.randn(1, 18, 6, 6)
    grad, none = torch.randn(1, 2, 6, 6), maps[:0]
    geometry = {"kW": 3, "kH": 3, "dW": 1, "dH": 1, "padW": 1, "padH": 1, "dilationW": 1, "dilationH": 1}
    numbers = {**geometry, "group": 1, "deformable_group": 1, "im2col_step": 1}

    def of_weight():
        read = {"input": maps, "offset": offset, "gradOutput": grad, "columns": none, "ones": none}
        fill = {"gradWeight": weight * 0}
        return filled("deform_conv_backward_parameters", read, fill, scale=1.0, **numbers)["gradWeight"]

    alone = of_weight()
    read = {"input": maps, "offset": offset, "gradOutput": grad, "weight": weight, "columns": none}
    fill = {"gradInput": maps * 0, "gradOffset": offset * 0}
    filled("deform_conv_backward_input", read, fill, **numbers)
    torch.testing.assert_close(of_weight(), alone)
    filled("deform_conv_backward_input", read, fill, **numbers)
    grad.mul_(2)  # no longer what it was
    torch.testing.assert_close(of_weight(), 2 * alone)


def test_equal_scores_stay_in_the_order_of_torchs_sort():
    scores = torch.randint(0, 5, (300,)) / 5
    boxes = torch.arange(300.0)[:, None] * 10 + torch.tensor([0.0, 0, 9, 9])  # apart from each other
    kept = OPERATORS["nms"](boxes, scores, iou_threshold=0.5, offset=0)
    assert torch.equal(kept, scores.sort(descending=True).indices)
