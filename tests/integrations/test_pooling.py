"""RoI pooling of other detectors over our operators: the results of torchvision, the rules of the other two."""

import math

import pytest
import torch
import torchvision
from torch import nn

from htc_fast import ops
from htc_fast.integrations import detectron2, mmdetection
from htc_fast.integrations import torchvision as ours

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def pyramid(images: int = 2, channels: int = 5, height: int = 192, width: int = 256) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, channels, int(height * s), int(width * s), generator=generator) for s in SCALES]


def boxes(count: int, seed: int) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 150
    sizes = 4 ** (torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 4)
    return torch.cat([corners, corners + sizes], dim=1)


@pytest.mark.parametrize("size, ratio", [(7, 2), ((5, 9), 0)])
def test_torchvision_results(size, ratio):
    maps = dict(zip(("0", "1", "2", "3"), pyramid()))
    maps["pool"] = maps["3"][:, :, ::2, ::2]
    found, shapes = [boxes(40, 1), boxes(0, 2)], [(190, 256), (192, 250)]
    names = ["0", "1", "2", "3"]
    expected = torchvision.ops.MultiScaleRoIAlign(names, size, ratio)(maps, found, shapes)
    torch.testing.assert_close(ours.MultiScaleRoIAlign(names, size, ratio)(maps, found, shapes), expected)


def test_torchvision_model_keeps_its_detections():
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=128, max_size=160, box_score_thresh=0.0
    ).eval()
    picture = [torch.rand(3, 120, 150, generator=torch.Generator().manual_seed(3))]
    with torch.no_grad():
        expected = model(picture)[0]
        assert ours.replace_pooling(model) == 2 and ours.replace_pooling(model) == 2
        assert type(model.roi_heads.box_roi_pool) is ours.MultiScaleRoIAlign
        found = model(picture)[0]
    assert len(expected["boxes"]) > 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)


def test_torchvision_says_what_is_missing():
    with pytest.raises(ValueError, match="expected maps 0"):
        ours.MultiScaleRoIAlign(["0"], 7, 2)({"p2": torch.zeros(1, 1, 4, 4)}, [boxes(1, 0)], [(16, 16)])


def level_by_level(maps, rois, finest, **options) -> torch.Tensor:
    """One torchvision call per box, on the level that the box's size asks for."""
    out = []
    for roi in rois:
        side = math.sqrt((roi[3] - roi[1]) * (roi[4] - roi[2]))
        level = min(max(math.floor(math.log2(side / finest + 1e-6)), 0), len(maps) - 1)
        out.append(torchvision.ops.roi_align(maps[level], roi[None], spatial_scale=SCALES[level], **options))
    return torch.cat(out)


class Boxes:
    """As detectron2 holds them."""

    def __init__(self, tensor):
        self.tensor = tensor


class RoIAlign(nn.Module):
    """What detectron2 and mmcv note of a level's pooling."""

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=True, pool_mode="avg"):
        super().__init__()
        self.output_size, self.spatial_scale, self.sampling_ratio = output_size, spatial_scale, sampling_ratio
        self.aligned, self.pool_mode = aligned, pool_mode


@pytest.mark.parametrize("kind, aligned", [("ROIAlignV2", True), ("ROIAlign", False)])
def test_detectron2_results(kind, aligned):
    maps, found = pyramid(), [boxes(20, 1), boxes(30, 5)]
    rois = torch.cat([torch.cat([torch.full((len(one), 1), float(n)), one], 1) for n, one in enumerate(found)])
    pooled = detectron2.ROIPooler(7, SCALES, 0, kind)(maps, [Boxes(one) for one in found])
    torch.testing.assert_close(
        pooled, level_by_level(maps, rois, 56, output_size=7, sampling_ratio=0, aligned=aligned), rtol=1e-4, atol=1e-4
    )


def test_detectron2_swap():
    class ROIPooler(nn.Module):
        def __init__(self):
            super().__init__()
            self.output_size, self.canonical_box_size, self.canonical_level = (14, 14), 224, 4
            self.level_poolers = nn.ModuleList(RoIAlign((14, 14), scale, 0) for scale in SCALES)

    model = nn.ModuleDict({"box_pooler": ROIPooler(), "other": nn.Identity()})
    assert detectron2.replace_pooling(model) == 1
    new = model["box_pooler"]
    assert (new.output_size, new.scales, new.aligned) == ((14, 14), list(SCALES), True)
    with pytest.raises(ValueError, match="one tensor per image"):
        new(pyramid(), [Boxes(boxes(3, 0))] * 3)
    with pytest.raises(ValueError, match="ROIAlignV2"):
        detectron2.ROIPooler(7, SCALES, 0, "ROIPool")


def test_mmdetection_results_and_swap():
    class SingleRoIExtractor(nn.Module):
        def __init__(self, strides, pool_mode="avg"):
            super().__init__()
            self.featmap_strides, self.finest_scale, self.out_channels = strides, 56, 5
            self.roi_layers = nn.ModuleList(RoIAlign((7, 7), 1 / s, 0, pool_mode=pool_mode) for s in strides)

    model = nn.ModuleDict({"boxes": SingleRoIExtractor([4, 8, 16, 32]), "semantic": SingleRoIExtractor([8])})
    assert mmdetection.replace_pooling(model) == 2
    maps = [*pyramid(), torch.zeros(2, 5, 3, 4)]
    rois = torch.cat([torch.randint(2, (50, 1)).float(), boxes(50, 7)], dim=1)
    options = {"output_size": 7, "sampling_ratio": 0, "aligned": True}
    expected = level_by_level(maps[:4], rois, 56, **options)
    torch.testing.assert_close(model["boxes"](maps[:4], rois), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model["semantic"]([maps[1]], rois), ops.roi_align(maps[1], rois, 7, 1 / 8, 0, True), rtol=1e-4, atol=1e-4
    )
    assert model["boxes"].num_inputs == 4 and model["boxes"].out_channels == 5
    with pytest.raises(ValueError, match="roi_scale_factor must be a positive number"):
        model["boxes"](maps, rois, roi_scale_factor=-1.2)
    with pytest.raises(ValueError, match="pool_mode"):
        mmdetection.replace_pooling(nn.ModuleDict({"x": SingleRoIExtractor([4], pool_mode="max")}))


def test_gradients_pass():
    maps = [one.requires_grad_() for one in pyramid()]
    detectron2.ROIPooler(7, SCALES, 2, "ROIAlignV2")(maps, [boxes(9, 0), boxes(9, 1)]).sum().backward()
    assert maps[0].grad.abs().sum() > 0
