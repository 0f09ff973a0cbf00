"""Our layers in detectron2's place, held against plain definitions; beside detectron2 itself in the file after this."""

import pytest
import torch
import torchvision
from torch import nn

from htc_fast.integrations import detectron2 as ours
from tests.integrations.test_pooling import SCALES, Boxes, boxes, pyramid


def pasted(masks, found, height, width) -> torch.Tensor:
    """Every mask at every pixel's centre, by torch's own bilinear sampling: [K, H, W]."""
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    x = (x[None] - found[:, :1]) / (found[:, 2:3] - found[:, :1]) * 2 - 1
    y = (y[None] - found[:, 1:2]) / (found[:, 3:] - found[:, 1:2]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def some_masks(count: int = 12, side: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    corners = torch.rand(count, 2) * 60 - 10
    found = torch.cat([corners, corners + torch.rand(count, 2) * 50 + 3], dim=1)
    return torch.rand(count, side, side), found


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.95])
def test_paste_is_the_mask_at_the_pixels_centres(threshold):
    masks, found = some_masks()
    masks[0] = 1.0
    expected = pasted(masks, found, 60, 80) >= threshold
    assert expected.any() and torch.equal(ours.paste_masks_in_image(masks, found, (60, 80), threshold), expected)
    assert torch.equal(ours.paste_masks_in_image(masks, Boxes(found), [60, 80], threshold), expected)


def near(found: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pixels in boxes, or a pixel around them."""
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    low, high = found[:, :2].floor() - 1, found[:, 2:].ceil() + 1
    across = (columns >= low[:, :1]) & (columns < high[:, :1])
    return across[:, None, :] & ((rows >= low[:, 1:]) & (rows < high[:, 1:]))[:, :, None]


def test_paste_below_half_reaches_out_of_the_box_and_below_zero_is_soft():
    masks, found = some_masks()
    value, reach = pasted(masks, found, 60, 80), near(found, 60, 80)
    low = ours.paste_masks_in_image(masks, found, (60, 80), 0.2)
    assert low.dtype == torch.bool and torch.equal(low, (value >= 0.2) & reach)
    centre_x, inside = torch.arange(80) + 0.5, ours.paste_masks_in_image(masks, found, (60, 80), 0.5)
    outside = (centre_x[None] < found[:, :1]) | (centre_x[None] > found[:, 2:3])
    assert (low & outside[:, None]).any() and not (inside & outside[:, None]).any()
    assert torch.equal(ours.paste_masks_in_image(masks, found, (60, 80), 0), reach)
    soft = ours.paste_masks_in_image(masks, found, (60, 80), -1)
    assert soft.dtype == torch.uint8 and torch.equal(soft, (value * reach * 255).to(torch.uint8))
    assert soft.max() > 200
    # Masks of more than 1 reach out of their boxes at larger thresholds too.
    high = ours.paste_masks_in_image(masks * 10, found, (60, 80), 0.6)
    assert torch.equal(high, (pasted(masks * 10, found, 60, 80) >= 0.6) & reach) and (high & outside[:, None]).any()


def test_paste_of_nothing_and_of_what_is_no_mask():
    empty = ours.paste_masks_in_image(torch.zeros(0, 7, 7), torch.zeros(0, 4), (6, 8))
    assert empty.shape == (0, 6, 8) and empty.dtype == torch.uint8
    whole = torch.tensor([[0.0, 0, 8, 6]])
    assert ours.paste_masks_in_image(torch.ones(1, 7, 7, dtype=torch.bool), whole, (6, 8)).all()
    bad = torch.full((1, 4), float("nan"))
    assert not ours.paste_masks_in_image(torch.ones(1, 7, 7), bad, (6, 8), 0.3).any()
    with pytest.raises(ValueError, match="masks must be square"):
        ours.paste_masks_in_image(torch.zeros(1, 7, 9), whole, (6, 8))
    with pytest.raises(ValueError, match=r"boxes must be \[K, 4\] = \[1, 4\]"):
        ours.paste_masks_in_image(torch.zeros(1, 7, 7), whole[0], (6, 8))


def test_nms_is_per_class():
    found, scores = boxes(300, 0), torch.rand(300, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(300) % 7
    expected = torchvision.ops.batched_nms(found.double(), scores.double(), classes, 0.4)
    assert 10 < len(expected) < 300
    for kind in (torch.int64, torch.int32, torch.float32):
        assert torch.equal(ours.batched_nms(found, scores, classes.to(kind), 0.4), expected)
    assert torch.equal(ours.nms(found, scores, 0.4), torchvision.ops.nms(found, scores, 0.4))
    half = ours.batched_nms(found.half(), scores, classes, 0.4)
    assert torch.equal(half, ours.batched_nms(found.half().float(), scores, classes, 0.4))
    assert ours.batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).shape == (0,)
    with pytest.raises(ValueError, match=r"boxes must be \[K, 4\]"):
        ours.batched_nms(torch.zeros(3, 5), torch.zeros(3), torch.zeros(3), 0.5)


def test_functions_in_torch_jit_script():
    masks, found = some_masks()
    scores, classes = torch.rand(12), torch.arange(12) % 2
    script = torch.jit.script(ours.batched_nms)
    assert torch.equal(script(found, scores, classes, 0.1), ours.batched_nms(found, scores, classes, 0.1))
    assert torch.equal(torch.jit.script(ours.nms)(found, scores, 0.1), ours.nms(found, scores, 0.1))
    paste = torch.jit.script(ours.paste_masks_in_image)
    expected = ours.paste_masks_in_image(masks, found, (60, 80))
    assert expected.any() and torch.equal(paste(masks, found, (60, 80)), expected)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align(aligned):
    rois = torch.cat([torch.arange(20)[:, None] % 2.0, boxes(20, 3)], dim=1)
    layer = ours.ROIAlign((5, 9), 0.25, 0.0, aligned=aligned)
    expected = torchvision.ops.roi_align(pyramid()[0], rois, (5, 9), 0.25, 0, aligned)
    found = layer(pyramid()[0], rois)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.view(20, -1).shape == (20, 5 * 45)
    assert repr(layer) == f"ROIAlign(output_size=(5, 9), spatial_scale=0.25, sampling_ratio=0, aligned={aligned})"
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match=r"rois must be \[K, 5\], image number first, got \[20, 4\]"):
            layer(pyramid()[0], rois[:, 1:])
    assert layer(torch.zeros(0, 3, 8, 8), torch.zeros(0, 5)).shape == (0, 3, 5, 9)


def test_pooler_without_images_or_boxes():
    pooler = ours.ROIPooler(7, SCALES, 0.0, "ROIAlignV2")
    assert pooler([one[:0] for one in pyramid()], []).shape == (0, 5, 7, 7)
    assert pooler(pyramid(), [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 5, 7, 7)
    found = pooler(pyramid(), [Boxes(boxes(3, 0)), Boxes(torch.zeros(0, 4))])
    assert found.view(3, -1).shape == (3, 5 * 49) and found.abs().sum() > 0
    for lists in ([Boxes(boxes(3, 0))], [Boxes(boxes(3, 0))] * 3, []):
        with pytest.raises(AssertionError, match="box_lists must be one tensor per image"):
            pooler(pyramid(), lists)
    with pytest.raises(match=r"box_lists must hold \[L, 4\], got \[3, 5\]"):
        pooler(pyramid(), [torch.zeros(3, 5)] * 2)


def test_pooler_says_what_it_is():
    pooler = ours.ROIPooler((5, 9), SCALES[:3], 2, "ROIAlign", canonical_box_size=112)
    assert repr(pooler) == (
        "ROIPooler(output_size=(5, 9), scales=[0.25, 0.125, 0.0625], sampling_ratio=2, pooler_type=ROIAlign, "
        "canonical_box_size=112, canonical_level=4)"
    )
    assert (pooler.min_level, pooler.max_level) == (2, 4)


@pytest.mark.parametrize("scales", [[1 / 3], [1 / 4, 1 / 16], [1 / 8, 1 / 4], [2.0, 1.0], []])
def test_scales_that_are_no_pyramid(scales):
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match="scales must be powers of two from 1 on"):
            ours.ROIPooler(7, scales, 0, "ROIAlign")


def test_a_trace_pools_other_numbers_of_boxes():
    pooler, maps = ours.ROIPooler(7, SCALES, 0, "ROIAlignV2"), pyramid()

    class Pool(nn.Module):
        def forward(self, first, second):
            return pooler(maps, [first, second])

    traced = torch.jit.trace(Pool(), (boxes(3, 0), boxes(4, 1)))
    for counts in ((30, 2), (0, 5), (0, 0)):
        given = boxes(counts[0], 5), boxes(counts[1], 6)
        torch.testing.assert_close(traced(*given), pooler(maps, list(given)))
        assert len(traced(*given)) == sum(counts)


def test_poolers_in_torch_jit_script():
    maps, lists = pyramid(), [boxes(9, 0), boxes(5, 1)]
    lists[0][0] = torch.tensor([30.0, 2, 3, 40])  # turned inside out
    pooler = ours.ROIPooler((5, 9), SCALES, 2, "ROIAlignV2", canonical_box_size=112)
    expected = pooler(maps, lists)
    assert expected[1].any() and not expected[0].any()
    torch.testing.assert_close(torch.jit.script(pooler)(maps, lists), expected)
    layer, rois = ours.ROIAlign(7, 0.25, 0), torch.cat([torch.zeros(9, 1), boxes(9, 0)], dim=1)
    torch.testing.assert_close(torch.jit.script(layer)(maps[0], rois), layer(maps[0], rois))
