"""What a user of torchvision's functions would notice: layouts, errors, scripts, traces, vmap."""

import warnings

import pytest
import torch
import torchvision
from torch import Tensor

from htc_fast import ops

MAPS = torch.randn(3, 6, 20, 30, generator=torch.Generator().manual_seed(0))
warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=FutureWarning)


def boxes(count: int, seed: int = 0) -> Tensor:
    numbers = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 15
    return torch.cat([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], dim=1)


def numbered(count: int) -> Tensor:
    return torch.cat([torch.arange(count)[:, None] % 3, boxes(count)], dim=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_roi_align_has_torchvisions_layout(layout, backend):
    given = MAPS.contiguous(memory_format=layout), numbered(5), (3, 4)
    with ops.use_backend(backend):
        found, kept = ops.roi_align(*given), ops.roi_align(*given, channels_last=True)
    expected = torchvision.ops.roi_align(*given)
    assert found.is_contiguous() and found.stride() == expected.stride()
    torch.testing.assert_close(found.view(5, -1), expected.view(5, -1))
    assert kept.equal(found)
    assert backend == "reference" or kept.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels, count, ratio", [(70, 40, 0), (70, 40, 2), (70, 1, 2), (70, 2, 0), (3, 40, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_in_either_memory_give_the_same(channels, count, ratio, dtype):
    # Many RoIs have the map turned, few read it plane by plane.
    maps = torch.randn(2, channels, 29, 31, generator=torch.Generator().manual_seed(1), dtype=dtype)
    rois = torch.cat([torch.arange(count)[:, None] % 2, boxes(count)], dim=1).to(dtype)
    one, other = (
        ops.roi_align(one, rois, 5, sampling_ratio=ratio)
        for one in (maps, maps.contiguous(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        one, torchvision.ops.roi_align(maps, rois, 5, sampling_ratio=ratio), rtol=1e-5, atol=1e-5
    )


def test_a_semantic_map_in_planes():
    maps = [torch.randn(1, 20, 60, 80, generator=torch.Generator().manual_seed(number)) for number in (2, 3)]
    rois = torch.tensor([[0, 3.0, 4, 30, 40]])
    last = [one.contiguous(memory_format=torch.channels_last) for one in maps]
    found, expected = (
        ops.multi_level_roi_align([a], rois, 7, [0.5], semantic=b, semantic_scale=0.5) for a, b in (maps, last)
    )
    assert found.abs().sum() > 1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_results_may_be_written_to_under_autograd():
    for call in (ops.roi_align, ops.multi_level_roi_align, ops.pr_roi_pool):
        maps = MAPS.clone().requires_grad_()
        given = (maps, numbered(3), 1) if call is ops.roi_align else ([maps], numbered(3), 1, [0.5])
        out = call(*given)
        out += 1
        out.sum().backward()
        assert maps.grad.abs().sum() > 0


def test_fewer_lists_than_images_no_lists_and_whole_floats():
    lists = [boxes(2), boxes(3, 1)]
    torch.testing.assert_close(ops.roi_align(MAPS, lists, 2), torchvision.ops.roi_align(MAPS, lists, 2))
    assert ops.roi_align(MAPS, [], 2).shape == (0, 6, 2, 2)
    assert ops.roi_align(MAPS, lists, 2, sampling_ratio=2.0).equal(ops.roi_align(MAPS, lists, 2, sampling_ratio=2))
    with pytest.raises(ValueError, match="at most one tensor per image of an input"):
        ops.roi_align(MAPS, [boxes(1)] * 4, 2)


@pytest.mark.parametrize("error", [AssertionError, RuntimeError, ValueError])
def test_wrong_shapes_are_torchvisions_errors_too(error):
    with pytest.raises(error, match="rois must be"):
        ops.roi_align(MAPS, boxes(3), 2)
    with pytest.raises(error, match=r"list of \[L, 4\]"):
        ops.roi_align(MAPS, [numbered(3)], 2)
    with pytest.raises(error, match="boxes must be"):
        ops.nms(torch.rand(4), torch.rand(3), 0.5)
    with pytest.raises(error, match="scores must be"):
        ops.nms(boxes(3), torch.rand(4), 0.5)


def test_classes_of_floats_and_no_boxes():
    given, scores, classes = boxes(60), torch.rand(60, generator=torch.Generator().manual_seed(2)), torch.arange(60) % 4
    expected = torchvision.ops.batched_nms(given, scores, classes, 0.3)
    for one in (classes, classes.float() / 3 - 0.5, classes.double(), classes.half(), -classes.float()):
        assert ops.batched_nms(given, scores, one, 0.3).equal(expected), one.dtype
    minus = torch.zeros(60).copysign(torch.randn(60))  # -0 and 0 are one class
    assert ops.batched_nms(given, scores, minus, 0.3).equal(ops.nms(given, scores, 0.3))
    nothing = torch.tensor([])
    assert ops.batched_nms(nothing, nothing, nothing, 0.5).tolist() == []
    assert ops.batched_nms(nothing, nothing, nothing, 0.5).dtype == torch.int64


def pooled(maps: Tensor, lists: list[Tensor]):
    return ops.roi_align(maps, lists, 3, 0.5, 2, True)


def flat(maps: Tensor, rois: Tensor):
    return ops.roi_align(maps, rois, (3, 2)).flatten(1)


def kept(boxes: Tensor, scores: Tensor, classes: Tensor):
    return ops.nms(boxes, scores, 0.4), ops.batched_nms(boxes, scores, classes, 0.4)


def pasted(masks: Tensor, boxes: Tensor):
    return ops.paste_masks(masks, boxes, (30, 40)), ops.paste_masks(masks, boxes, (30, 40), 0.3, True)


def test_scripts():
    generator = torch.Generator().manual_seed(3)
    lists = [boxes(2), boxes(4, 1), boxes(0)]
    assert torch.jit.script(pooled)(MAPS, lists).equal(pooled(MAPS, lists))
    assert torch.jit.script(flat)(MAPS, numbered(4)).equal(flat(MAPS, numbered(4)))
    given = boxes(50), torch.rand(50, generator=generator), torch.arange(50) % 3
    for found, expected in zip(torch.jit.script(kept)(*given), kept(*given)):
        assert found.equal(expected)
    assert torch.jit.script(kept)(*given[:2], given[2].float())[1].equal(kept(*given)[1])
    masks = torch.rand(4, 7, 7, generator=generator)
    for found, expected in zip(torch.jit.script(pasted)(masks, boxes(4)), pasted(masks, boxes(4))):
        assert found.equal(expected)


def test_gradients_pass_through_a_script():
    maps, script = MAPS.double().requires_grad_(), torch.jit.script(flat)
    assert torch.autograd.gradcheck(lambda one: script(one, numbered(2).double()), maps[:, :1, :6, :6])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_does_not_freeze_the_number_of_boxes():
    traced = torch.jit.trace(lambda maps, a, b: pooled(maps, [a, b]), (MAPS, boxes(2), boxes(3)))
    for counts in ((5, 1), (0, 7)):
        lists = [boxes(count, count) for count in counts]
        assert traced(MAPS, *lists).equal(pooled(MAPS, lists))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_pastes_masks_of_other_sizes():
    masks = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(side)) for side in (7, 28)]
    traced = torch.jit.trace(lambda m, b: ops.paste_masks(m, b, (30, 40), 0.3, True), (masks[0], boxes(3)))
    for one in masks:
        assert traced(one, boxes(3)).equal(ops.paste_masks(one, boxes(3), (30, 40), 0.3, True))


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)])
def test_vmap(dims):
    maps = torch.stack([MAPS, -MAPS.flip(3)]) if dims[0] == 0 else MAPS
    rois = torch.stack([numbered(4), numbered(4).flip(0)]) if dims[1] == 0 else numbered(4)
    found = torch.vmap(lambda one, many: ops.roi_align(one, many, 2), in_dims=dims)(maps, rois)
    for number, one in enumerate(found):
        expected = torchvision.ops.roi_align(maps if dims[0] is None else maps[number],
                                             rois if dims[1] is None else rois[number], 2)  # fmt: skip
        torch.testing.assert_close(one, expected)
    rois = numbered(4)
    many = torch.vmap(lambda one: ops.multi_level_roi_align([one, one[..., ::2, ::2]], rois, 2, [1, 0.5]))
    assert many(torch.stack([MAPS, MAPS * 2])).shape == (2, 4, 6, 2, 2)


def test_beyond_the_box_as_a_grid_sample_of_the_whole_image():
    generator = torch.Generator().manual_seed(4)
    masks, given = torch.rand(6, 4, 5, generator=generator), boxes(6, 5) * 1.5 + 3
    height, width = 40, 50
    for threshold in (0.1, 0.3, 0.5):
        x = (torch.arange(width) + 0.5 - given[:, :1]) / (given[:, 2:3] - given[:, :1]) * 2 - 1
        y = (torch.arange(height) + 0.5 - given[:, 1:2]) / (given[:, 3:] - given[:, 1:2]) * 2 - 1
        grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
        value = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
        found = ops.paste_masks(masks, given, (height, width), threshold, beyond_box=True)
        assert not ((found != (value >= threshold)) & ((value - threshold).abs() > 1e-5)).any()
        inside = ops.paste_masks(masks, given, (height, width), threshold)
        assert (found & ~inside).any() == (threshold < 0.5) and not (inside & ~found).any()
