"""Targets whose objects share index maps: the losses of bitmaps, bit for bit; and matching in parts."""

import sys
from dataclasses import replace

import pytest
import torch
import torchvision

from htc_fast.criterion import matching
from htc_fast.criterion.losses import losses
from htc_fast.criterion.matching import IGNORED, NEGATIVE, match
from htc_fast.models.structures import Targets
from tests.criterion.test_family_losses import priority, targets
from tests.models.test_family import SIZES
from tests.models.test_zoo import tiny


def layered(given: Targets, dtype=torch.int16) -> Targets:
    """One layer for every other object, numbers that are none's place."""
    images, objects, height, width = given.masks.shape
    masks, numbers = torch.zeros(images, 2, height, width, dtype=dtype), torch.zeros(images, objects, dtype=torch.int64)
    layers = torch.zeros_like(numbers)
    for n in range(images):
        for g in range(objects):
            numbers[n, g], layers[n, g] = 100 + 7 * g, g % 2
            free = masks[n, g % 2] == 0
            given.masks[n, g] *= free.byte()
            masks[n, g % 2][given.masks[n, g] > 0] = 100 + 7 * g
    return replace(given, masks=masks, numbers=numbers, layers=layers)


def terms(model, given: Targets) -> dict:
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return losses(model, images, SIZES, given, sampler=priority)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50"])
def test_losses_and_gradients_are_those_of_bitmaps(name, dtype):
    model = tiny(name)
    model.train()
    plain = targets()
    light = layered(plain, dtype)
    wanted = terms(model, plain)
    sum(wanted.values()).backward()
    before = {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    found = terms(model, light)
    sum(found.values()).backward()
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert any(key.endswith("mask") and float(found[key].detach()) > 0 for key in found)
    after = {key: one.grad for key, one in model.named_parameters() if one.grad is not None}
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50", "scnet_r50"])
def test_all_roi_aligns_share_gradient_buffers(name, monkeypatch):
    model, found = tiny(name).train(), []
    for _ in range(2):
        with torch.autograd.profiler.profile() as seen:
            sum(terms(model, targets()).values()).backward()
        found.append({key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None})
        model.zero_grad()
        adds = any(one.key == "htc_fast::multi_level_roi_align_add_backward" for one in seen.key_averages())
        assert adds == (len(found) == 1)
        monkeypatch.setattr(sys.modules[losses.__module__], "shared_maps", list)
    shared, plain = found
    assert shared.keys() == plain.keys() and any(key.startswith("fpn") for key in plain)
    for key, one in plain.items():
        torch.testing.assert_close(shared[key], one, rtol=1e-4, atol=1e-5 * float(one.abs().max()), msg=key)


def test_no_objects_at_all():
    model, given = tiny("htc_r50"), layered(targets())
    none = replace(given, boxes=given.boxes[:, :0], labels=given.labels[:, :0], numbers=given.numbers[:, :0],
                   layers=given.layers[:, :0])  # fmt: skip
    found = terms(model, none)
    assert all(one.isfinite() for one in found.values()) and float(found["stage1_mask"].detach()) == 0


def test_moved_together():
    given = layered(targets())
    moved = given.to("meta")
    assert [one.device.type for one in vars(moved).values()] == ["meta"] * 6
    assert targets().to("cpu").numbers is None and torch.equal(given.to("cpu").layers, given.layers)


WRONG = [
    ({"numbers": None}, ValueError, "targets.numbers is missing: masks that are index maps come with"),
    ({"layers": None}, ValueError, "targets.layers is missing"),
    ({"masks": torch.zeros(3, 2, 64, 96)}, TypeError, "targets.masks must be int16 or int32, got float32"),
    ({"masks": torch.zeros(3, 2, 32, 96, dtype=torch.int16)}, ValueError, r"must be \[3, 2, 64, 96\] for these"),
    ({"masks": torch.zeros(3, 0, 64, 96, dtype=torch.int16)}, ValueError, r"must be \[3, 1, 64, 96\] for these"),
    ({"numbers": torch.zeros(3, 3, dtype=torch.int64)}, ValueError, r"targets.numbers must be \[3, 4\] for these"),
    ({"layers": torch.zeros(3, 4)}, TypeError, "targets.layers must be int64, got float32"),
    ({"layers": torch.full((3, 4), 2)}, ValueError, "must be layers of targets.masks, below 2, got 2"),
]


@pytest.mark.parametrize("changed, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_what_is_refused(changed, error, said):
    with pytest.raises(error, match=said):
        terms(tiny("htc_r50"), replace(layered(targets()), **changed))


@pytest.mark.parametrize("low", [None, 0.3])
@pytest.mark.parametrize("pairs", [1, 100, 700])
def test_some_candidates_after_the_others(pairs, low, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 300, 2, generator=generator).mul(40).round()
    boxes = torch.cat([corner, corner + torch.rand(2, 300, 2, generator=generator).mul(30).round() + 1], dim=2)
    truth, valid = boxes[:, ::12] + 1, torch.rand(2, 300, generator=generator) < 0.9
    real = torch.arange(25).expand(2, -1) < torch.tensor([[25], [11]])
    given = boxes, valid, truth, real, 0.6, 0.4, low
    monkeypatch.setattr(matching, "PAIRS", pairs)
    found = match(*given)
    for n in range(2):
        iou = torchvision.ops.box_iou(boxes[n], truth[n, real[n]])
        for r in range(300):
            best = int(iou[r].argmax())
            value = float(iou[r, best])
            wanted = best if value >= 0.6 else NEGATIVE if value < 0.4 else IGNORED
            for g in range(iou.shape[1]) if low is not None else ():
                if iou[r, g] == iou[valid[n], g].max() >= low:
                    wanted = g
            assert int(found[n, r]) == (wanted if valid[n, r] else IGNORED)
    monkeypatch.setattr(matching, "PAIRS", 10**9)
    assert torch.equal(match(*given), found) and len(found.unique()) > 10
