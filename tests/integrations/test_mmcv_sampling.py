"""Masked convolution, CARAFE and deformable attention: mmcv's arguments, and definitions written out here."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from htc_fast import ops
from htc_fast.integrations.mmcv import OPERATORS


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_masked_convolution():
    maps, weight, mask = torch.randn(1, 3, 7, 8), torch.randn(4, 3, 3, 5), torch.rand(7, 8) > 0.5
    rows, columns = mask.nonzero().unbind(1)
    seen, out = torch.zeros(45, len(rows)), torch.zeros(1, 4, 7, 8)
    sides = {"kernel_h": 3, "kernel_w": 5, "pad_h": 1, "pad_w": 2}
    OPERATORS["masked_im2col_forward"](maps, rows, columns, seen, **sides)
    OPERATORS["masked_col2im_forward"](weight.flatten(1) @ seen, rows, columns, out, height=7, width=8, channels=4)
    torch.testing.assert_close(out, F.conv2d(maps, weight, padding=(1, 2)) * mask, rtol=1e-4, atol=1e-4)


def reassembled(maps, masks, kernel, groups, scale):
    """CARAFE, place by place."""
    images, channels, height, width = maps.shape
    padded, half = F.pad(maps, [kernel // 2] * 4), kernel
    rows = []
    for y, x in itertools.product(range(height * scale), range(width * scale)):
        seen = padded[:, :, y // scale : y // scale + half, x // scale : x // scale + half]
        seen = seen.reshape(images, groups, channels // groups, kernel**2)
        rows.append((seen * masks[:, :, y, x].view(images, groups, 1, kernel**2)).sum(dim=3).flatten(1))
    return torch.stack(rows, dim=2).view(images, channels, height * scale, width * scale)


def test_carafe():
    maps, masks = torch.randn(2, 4, 3, 4, requires_grad=True), torch.rand(2, 18, 6, 8, requires_grad=True)
    options = {"kernel_size": 3, "group_size": 2, "scale_factor": 2}
    expected = reassembled(maps, masks, 3, 2, 2)
    grad = torch.randn_like(expected)
    by_maps, by_masks = torch.autograd.grad(expected, (maps, masks), grad)
    maps, masks = maps.detach(), masks.detach()
    out, kept, scratch = torch.zeros(2, 4, 6, 8), torch.zeros_like(maps), torch.zeros(0)
    OPERATORS["carafe_forward"](maps, masks, kept, scratch, scratch, out, **options)
    torch.testing.assert_close(out, expected)
    found = torch.zeros_like(maps), torch.zeros_like(masks)
    OPERATORS["carafe_backward"](grad, kept, masks, *[scratch] * 4, *found, **options)
    torch.testing.assert_close(found, (by_maps, by_masks))


def attended(value, shapes, at, weights):
    """Deformable attention, point by point, the map between its pixels by `grid_sample`'s definition."""
    (images, queries, heads), points = weights.shape[:3], weights.shape[4]
    out, start = value.new_zeros(images, queries, heads, value.shape[3]), 0
    for level, (height, width) in enumerate(shapes.tolist()):
        maps = value[:, start : start + height * width].view(images, height, width, heads, -1)
        start += height * width
        for n, q, h, p in itertools.product(range(images), range(queries), range(heads), range(points)):
            x, y = (at[n, q, h, level, p] * at.new_tensor([width, height]) - 0.5).unbind()
            for i, j in itertools.product(range(height), range(width)):
                share = (1 - (y - i).abs()).clamp(min=0) * (1 - (x - j).abs()).clamp(min=0)
                out[n, q, h] = out[n, q, h] + weights[n, q, h, level, p] * share * maps[n, i, j, h]
    return out.flatten(2)


def test_deformable_attention():
    shapes, start = torch.tensor([[3, 4], [2, 1]]), torch.tensor([0, 12])
    value, at = torch.randn(2, 14, 2, 3, dtype=torch.float64), torch.rand(2, 3, 2, 2, 2, 2, dtype=torch.float64)
    weights = torch.rand(2, 3, 2, 2, 2, dtype=torch.float64)
    inputs = [one.requires_grad_() for one in (value, at, weights)]
    expected = attended(value, shapes, at, weights)
    grad = torch.randn_like(expected)
    by_definition = torch.autograd.grad(expected, inputs, grad)
    value, at, weights = (one.detach() for one in inputs)
    out = OPERATORS["ms_deform_attn_forward"](value, shapes, start, at, weights, im2col_step=64)
    torch.testing.assert_close(out, expected.detach())
    found = [torch.zeros_like(one) for one in (value, at, weights)]
    OPERATORS["ms_deform_attn_backward"](value, shapes, start, at, weights, grad, *found, im2col_step=64)
    torch.testing.assert_close(found, list(by_definition))


def pooled_between(maps, rois, offset, size, scale, ratio, gamma):
    """Deformable RoI pooling of boxes well inside their maps, sample by sample."""
    rows = []
    for roi, moved in zip(rois, offset):
        (x, y), (across, down) = roi[1:3] * scale - 0.5, (roi[3:5] - roi[1:3]) * scale
        for i, j in itertools.product(range(size[0]), range(size[1])):
            left, top = x + gamma * across * moved[0, i, j], y + gamma * down * moved[1, i, j]
            wide, high = across / size[1], down / size[0]
            counts = (ratio, ratio) if ratio else (math.ceil(wide), math.ceil(high))
            xs = left + j * wide + (torch.arange(counts[0]) + 0.5) * wide / counts[0]
            ys = top + i * high + (torch.arange(counts[1]) + 0.5) * high / counts[1]
            near = [(1 - (axis[:, None] - torch.arange(side)).abs()).clamp(min=0) for axis, side in ((ys, 9), (xs, 10))]
            rows.append(torch.einsum("ab,de,cbe->c", *near, maps[int(roi[0])]) / (counts[0] * counts[1]))
    return torch.stack(rows).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("ratio", [0, 2])
def test_deformable_roi_pooling(ratio):
    maps, offset = torch.randn(2, 3, 9, 10, requires_grad=True), torch.randn(2, 2, 2, 3, requires_grad=True)
    rois, numbers = torch.tensor([[0, 3.1, 3.3, 11.7, 12.2], [1, 4, 4.2, 13.1, 12.9]]), (2, 3, 0.5, ratio, 0.1)
    expected = pooled_between(maps, rois, offset, (2, 3), 0.5, ratio, 0.1)
    grad = torch.randn_like(expected)
    by_definition = torch.autograd.grad(expected, (maps, offset), grad)
    maps, offset, out = maps.detach(), offset.detach(), torch.zeros_like(expected)
    OPERATORS["deform_roi_pool_forward"](maps, rois, offset, out, *numbers)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-5)
    found = torch.zeros_like(maps), torch.zeros_like(offset)
    OPERATORS["deform_roi_pool_backward"](grad, maps, rois, offset, *found, *numbers)
    torch.testing.assert_close(found, by_definition, rtol=1e-4, atol=1e-5)


def test_roi_pooling_without_offsets_or_boxes():
    maps, rois, none = torch.randn(2, 3, 9, 10), torch.tensor([[0, -3.0, 3, 11, 30]]), torch.zeros(0)
    numbers, out = (2, 3, 0.5, 2, 0.1), torch.zeros(1, 3, 2, 3)
    OPERATORS["deform_roi_pool_forward"](maps, rois, none, out, *numbers)
    torch.testing.assert_close(out, ops.roi_align(maps, rois, (2, 3), 0.5, 2, True))
    found = torch.zeros_like(maps), torch.zeros(0, 2, 2, 3)
    OPERATORS["deform_roi_pool_backward"](out[:0], maps, rois[:0], found[1], *found, *numbers)
    assert not found[0].any()
