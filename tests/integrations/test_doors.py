"""What is no detector, or no pooling of that library: one sentence, and nothing half swapped."""

import pytest
import torch
import torchvision
from torch import nn

from htc_fast.integrations import detectron2, mmdetection
from htc_fast.integrations import torchvision as ours
from tests.integrations.test_pooling import SCALES, boxes, pyramid

MODULES = {"MultiScaleRoIAlign": ours, "ROIPooler": detectron2, "SingleRoIExtractor": mmdetection}
MADE = {
    "MultiScaleRoIAlign": lambda: ours.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
    "ROIPooler": lambda: detectron2.ROIPooler(7, SCALES, 2, "ROIAlignV2"),
    "SingleRoIExtractor": lambda: mmdetection.SingleRoIExtractor(7, [4, 8, 16, 32]),
}
MAPS = dict(zip("0123", pyramid()))


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_no_detector(kind):
    for wrong in (None, "maskrcnn_resnet50_fpn", {"roi_heads": 1}, nn.Linear):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got "):
            MODULES[kind].replace_pooling(wrong)
    with pytest.raises(ValueError, match=f"Sequential holds no {kind}, so nothing can be swapped: expected a detector"):
        MODULES[kind].replace_pooling(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=f"{kind} holds no {kind}, .*: give the detector that it is a part of"):
        MODULES[kind].replace_pooling(MADE[kind]())


def test_a_detector_of_another_library():
    model = nn.ModuleDict({"pooler": MADE["ROIPooler"]()})
    with pytest.raises(ValueError, match=r"its ROIPooler is for htc_fast\.integrations\.detectron2"):
        ours.replace_pooling(model)


@pytest.mark.parametrize("kind", MODULES)
def test_a_second_call_changes_nothing(kind):
    model = nn.ModuleDict({"pooler": MADE[kind]()})
    before = model["pooler"]
    assert MODULES[kind].replace_pooling(model) == 1 and model["pooler"] is before


@pytest.mark.parametrize("kind", MODULES)
def test_a_namesake_is_left_alone(kind):
    model = nn.ModuleDict({"first": MADE[kind](), "namesake": type(kind, (nn.Module,), {})()})
    before = dict(model)
    with pytest.raises(ValueError, match=f"this {kind} is not .*'s, so it cannot be swapped"):
        MODULES[kind].replace_pooling(model)
    assert dict(model) == before


def test_a_pooling_that_stands_in_two_places_is_swapped_in_both():
    shared = torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2)
    model = nn.ModuleDict({"box": shared, "mask": shared, "none": None})
    assert ours.replace_pooling(model) == 1
    assert isinstance(model["box"], ours.MultiScaleRoIAlign) and model["mask"] is model["box"]


SHAPES = [(192, 256)] * 2
TWO = [boxes(3, 0), boxes(2, 1)]
WRONG = {
    "no dict": ("MultiScaleRoIAlign", (list(MAPS.values()), TWO, SHAPES), TypeError, "x must be a dict"),
    "no boxes": ("MultiScaleRoIAlign", (MAPS, None, SHAPES), TypeError, "boxes must be a list"),
    "one tensor": ("MultiScaleRoIAlign", (MAPS, TWO[0], SHAPES), ValueError, "one tensor per image"),
    "too many": ("MultiScaleRoIAlign", (MAPS, [*TWO, TWO[0]], SHAPES), ValueError, "one tensor per image"),
    "five numbers": ("MultiScaleRoIAlign", (MAPS, [torch.rand(3, 5)] * 2, SHAPES), ValueError, r"list of \[L, 4\]"),
    "no shapes": ("MultiScaleRoIAlign", (MAPS, TWO, None), TypeError, "image_shapes must be a list"),
    "one number": ("MultiScaleRoIAlign", (MAPS, TWO, [192, 256]), ValueError, "must be height, width, got 192"),
    "no pixels": ("MultiScaleRoIAlign", (MAPS, TWO, [(0, 0)] * 2), ValueError, "images 0 pixels high"),
    "no map": ("MultiScaleRoIAlign", ({"0": "abc"}, TWO, SHAPES), TypeError, "must be a tensor, got str"),
    "no maps": ("ROIPooler", (None, TWO), TypeError, "feature maps must be a list"),
    "empty maps": ("ROIPooler", ([], TWO), ValueError, "1 to 8 feature levels"),
    "no lists": ("ROIPooler", (pyramid(), 3), TypeError, "box_lists must be a list"),
    "text": ("ROIPooler", (pyramid(), ["a", "b"]), TypeError, "must be a tensor, got str"),
    "fewer levels": ("ROIPooler", (pyramid()[:2], TWO), ValueError, "one spatial scale per level"),
    "no rois": ("SingleRoIExtractor", (pyramid(), None), TypeError, "rois must be a tensor, got NoneType"),
    "no feats": ("SingleRoIExtractor", (None, torch.rand(3, 5)), TypeError, "feats must be a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    kind, arguments, error, sentence = WRONG[name]
    with pytest.raises(error, match=sentence):
        MADE[kind]()(*arguments)


def test_wrong_settings():
    with pytest.raises(ValueError, match="output_size must be"):
        ours.MultiScaleRoIAlign(["0"], None, 2)
    with pytest.raises(TypeError, match="featmap_names must be a list"):
        ours.MultiScaleRoIAlign("feat0", 7, 2)
    with pytest.raises(ValueError, match="a spatial scale must be a positive number"):
        detectron2.ROIPooler(7, [0.25, 0], 2, "ROIAlign")
    with pytest.raises(ValueError, match="a stride must be a positive number"):
        mmdetection.SingleRoIExtractor(7, [4, 0])
    with pytest.raises(TypeError, match="sampling_ratio must be an integer"):
        detectron2.ROIPooler(7, SCALES, 1.5, "ROIAlign")(pyramid(), TWO)
