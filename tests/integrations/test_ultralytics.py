"""YOLO-seg's instances beside ultralytics' own: its arithmetic, and a whole model with random weights."""

import importlib.util

import numpy as np
import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed: scripts/integrations_check.sh runs these", allow_module_level=True)

from ultralytics import YOLO
from ultralytics.utils import ops as theirs

from htc_fast.integrations.ultralytics import instances
from htc_fast.integrations.ultralytics.predictor import RLEPredictor
from tests.integrations import rle_cases as cases

INPUT = 96, 160


def outputs(seed, count=7):
    """Predictions [count, 6 + 8] with boxes in the input, prototypes [8, 24, 40]."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 40.0])
    far = corner + torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 50.0]) + 8
    scores = torch.rand(count, 1, generator=generator).sort(dim=0, descending=True).values
    rest = torch.randint(0, 3, (count, 1), generator=generator).float(), torch.randn(count, 8, generator=generator)
    return torch.cat([corner, far, scores, *rest], dim=1), cases.smooth(8, 24, 40, seed)


@pytest.mark.parametrize("seed", cases.SEEDS)
def test_masks_of_the_picture_are_those_of_retina_masks(seed):
    # The letterbox's edge lies on a cell of the prototypes: 80 rows of 96.
    size, (found, protos) = (160, 320), outputs(seed)
    our = instances(found, protos, INPUT, size, empty=True)
    boxes = theirs.scale_boxes(INPUT, found[:, :4].clone(), size)
    masks = theirs.process_mask_native(protos, found[:, 6:], boxes, size)
    assert torch.allclose(our.boxes, boxes, atol=1e-4) and masks.any()
    moved = (cases.masks(our.rle) != masks.numpy().astype(bool)).sum()
    assert moved <= 2  # their product is a matrix multiplication, in another order


def test_between_cells_a_few_pixels_of_edges_move():
    # 90 rows of 96: the edge is in the middle of a cell, where theirs resizes twice.
    size, (found, protos) = (180, 320), outputs(1)
    our = instances(found, protos, INPUT, size, empty=True)
    boxes = theirs.scale_boxes(INPUT, found[:, :4].clone(), size)
    masks = theirs.process_mask_native(protos, found[:, 6:], boxes, size).numpy().astype(bool)
    assert 0 < (cases.masks(our.rle) ^ masks).mean() < 0.01


def test_masks_of_the_input_are_those_of_process_mask():
    found, protos = outputs(2)
    our = instances(found, protos, INPUT, INPUT, empty=True)
    masks = theirs.process_mask(protos, found[:, 6:], found[:, :4], INPUT, upsample=True)
    assert masks.any() and (cases.masks(our.rle) != masks.numpy().astype(bool)).sum() <= 2


def test_a_predictor_of_ours_finds_the_same():
    torch.manual_seed(1)
    model = YOLO("yolo11n-seg.yaml", verbose=False)
    # Of random weights no score is high, and masks are everything or nothing unless they are made larger.
    for weights in model.model.model[-1].parameters():
        weights.data *= 3 if weights.dim() > 1 else 1
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    settings = {"imgsz": 160, "conf": 1e-6, "iou": 0.9, "verbose": False, "device": "cpu"}
    [their] = YOLO.predict(model, picture, retina_masks=True, **settings)
    model.predictor = None
    [our] = model.predict(picture, predictor=RLEPredictor, **settings)
    assert len(our) == len(our.instances) == len(their) > 1 and our.masks is None
    # Many scores are equal, so that the order may differ: by boxes, both are in one.
    first, second = (sorted(range(len(one)), key=lambda i, d=one.boxes.data: d[i].tolist()) for one in (our, their))
    assert torch.allclose(our.boxes.data[first], their.boxes.data[second], atol=1e-3)
    assert our.instances.size == (120, 160) and our.instances.name(0) == their.names[int(our.boxes.cls[0])]
    whole = their.masks.data.numpy().astype(bool)
    assert 0 < whole.mean() < 1
    moved = cases.masks(our.instances.rle)[first] ^ whole[second]
    assert moved.mean() < 0.01
