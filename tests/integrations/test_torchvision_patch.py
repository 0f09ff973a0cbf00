"""torchvision's names hold our operators within `patch_ops()`, and only there."""

import sys

import pytest
import torch
import torchvision
from torchvision.models.detection import faster_rcnn, roi_heads, transform

from htc_fast import ops
from htc_fast.integrations import torchvision as ours
from htc_fast.integrations.torchvision import keypoints, masks, patch, pooling
from tests.integrations.torchvision_cases import made, paired, pictures


def test_blocks_that_overlap():
    theirs = torchvision.ops.nms
    first, second = ours.patch_ops(), ours.patch_ops()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torchvision.ops.nms is not theirs
    second.__exit__(None, None, None)
    assert torchvision.ops.nms is theirs


NAMES = ("nms", "batched_nms", "roi_align", "RoIAlign", "MultiScaleRoIAlign", "paste_masks_in_image")


def held():
    """What stands under these names anywhere in torchvision."""
    modules = {key: one for key, one in sys.modules.items() if one is not None and key.split(".")[0] == "torchvision"}
    return {(key, name): vars(one)[name] for key, one in modules.items() for name in NAMES if name in vars(one)}


def test_names_and_back():
    before = held()
    with ours.patch_ops():
        assert torchvision.ops.nms is torchvision.ops.boxes.nms is patch.nms
        assert torchvision.ops.batched_nms is torchvision.ops.boxes.batched_nms is ops.batched_nms
        assert (
            torchvision.ops.roi_align is roi_heads.roi_align is torchvision.ops.poolers.roi_align is pooling.roi_align
        )
        assert faster_rcnn.MultiScaleRoIAlign is torchvision.ops.MultiScaleRoIAlign is ours.MultiScaleRoIAlign
        assert torchvision.ops.RoIAlign is ours.RoIAlign
        assert transform.paste_masks_in_image is roi_heads.paste_masks_in_image is masks.paste_masks_in_image
        changed = {key for key, one in held().items() if one is not before[key]}
    assert held() == before and len(changed) >= 14
    assert {name for _, name in changed} == set(NAMES)


def test_back_also_when_an_exception_passes():
    before = held()
    with pytest.raises(ZeroDivisionError), ours.patch_ops(), ours.patch_ops():
        assert torchvision.ops.nms is patch.nms
        raise ZeroDivisionError
    assert held() == before and torchvision.ops.nms is not patch.nms


def test_a_model_within():
    model = made("maskrcnn_resnet50_fpn")
    with torch.inference_mode():
        wanted = model(pictures(1))[0]
        with ours.patch_ops():
            found = model(pictures(1))[0]
            built = made("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert len(found["boxes"]) == 20 and type(built.roi_heads.box_roi_pool) is ours.MultiScaleRoIAlign
    torch.testing.assert_close(paired(found, wanted), wanted, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_masks_are_pasted_as_torchvision_does(padding):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(30, 2, generator=generator) * 70], dim=1)
    boxes[:3] = torch.tensor([[-9.0, -5, 200, 90], [10, 10, 10, 10], [99, 0, 100, 80]])
    small = torch.rand(30, 1, 28, 28, generator=generator)
    wanted = roi_heads.paste_masks_in_image(small, boxes, (80, 100), padding)
    found = masks.paste_masks_in_image(small, boxes, (80, 100), padding)
    assert wanted.shape == (30, 1, 80, 100) and 0.05 < wanted.mean() < 0.9
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert masks.paste_masks_in_image(small[:0], boxes[:0], (80, 100)).shape == (0, 1, 80, 100)


def test_keypoints_are_found_as_torchvision_does():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(20, 2, generator=generator) ** 2 * 300], dim=1)
    maps = torch.randn(20, 17, 56, 56, generator=generator)
    places, scores = roi_heads.heatmaps_to_keypoints(maps, boxes)
    found, values = keypoints.largest(maps, boxes)
    torch.testing.assert_close(found, places, rtol=0, atol=1e-4)
    torch.testing.assert_close(values, scores, rtol=1e-4, atol=1e-5)
    assert found.dtype == torch.float32 and len(found.unique(dim=0)) == 20
    assert [one.shape for one in keypoints.largest(maps[:0], boxes[:0])] == [(0, 17, 3), (0, 17)]


def test_quantized_boxes_and_maps_are_left_to_torchvision():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
    quantized = [torch.quantize_per_tensor(one, 1.0, 0, torch.quint8) for one in (boxes, torch.tensor([3.0, 2, 1]))]
    maps = torch.quantize_per_tensor(torch.arange(1024.0).view(1, 1, 32, 32) / 4, 1.0, 0, torch.quint8)
    rois = torch.quantize_per_tensor(torch.cat([torch.zeros(3, 1), boxes], dim=1), 1.0, 0, torch.quint8)
    with ours.patch_ops():
        assert torchvision.ops.nms(*quantized, 0.5).tolist() == [0, 2]
        found = torchvision.ops.roi_align(maps, rois, 2)
    assert found.is_quantized and torch.equal(found.int_repr(), torchvision.ops.roi_align(maps, rois, 2).int_repr())


@pytest.mark.filterwarnings("ignore")
def test_script_within():
    def call(boxes, scores):
        return torchvision.ops.nms(boxes, scores, 0.5)

    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), torch.tensor([0.9, 0.8, 0.7])
    with ours.patch_ops():
        scripted = torch.jit.script(call)
    assert "htc_fast::batched_nms" in str(scripted.inlined_graph)
    assert scripted(boxes, scores).tolist() == [0, 2]
