"""Images, sizes and ground truth that a detector cannot take are one sentence, before any layer meets them."""

import numpy as np
import pytest
import torch

import htc_fast
from htc_fast.models.structures import Targets

IMAGES, SIZES = torch.rand(2, 3, 64, 96), torch.tensor([[60, 90], [64, 96]])
BOXES, LABELS = torch.tensor([[[5.0, 5, 40, 40], [10, 10, 50, 60]]] * 2), torch.tensor([[0, 2], [1, -1]])
MASKS, SEMANTIC = torch.zeros(2, 2, 64, 96, dtype=torch.uint8), torch.zeros(2, 8, 12, dtype=torch.int64)
MASKS[:, :, 10:40, 10:40] = 1
GOOD = {"boxes": BOXES, "labels": LABELS, "masks": MASKS, "semantic": SEMANTIC}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {
        "channels": 16,
        "box_channels": 32,
        "num_classes": 3,
        "semantic_classes": 5,
        "samples": 16,
        "detections": 5,
    }
    return htc_fast.create_model(
        "htc_r50", backbone="test_resnet", rpn_proposals=30, rpn_proposals_per_level=30, rpn_samples=16, **small
    )


WRONG_IMAGES = [
    *((bad, "must be a tensor, got ") for bad in (None, "a.jpg", [1], IMAGES.numpy())),
    (IMAGES.to_sparse(), "must be a dense tensor, got one that is torch.sparse_coo"),
    *((bad, "must be [N, 3, H, W], none of them zero, got [") for bad in
      (IMAGES[0], IMAGES[:, :1], IMAGES.permute(0, 2, 3, 1), IMAGES[:0], IMAGES[:, :, :0])),
    *((bad, "must be normalised and floating point of 16, 32 or 64 bits, got ")
      for bad in (IMAGES.byte(), IMAGES.long(), IMAGES > 0.5, IMAGES.to(torch.float8_e4m3fn))),
    (IMAGES.to(torch.complex64), "must be real numbers, got complex64"),
    (IMAGES[:, :, :60], "must be padded to sides that 32 divides, got 60 x 96"),
]  # fmt: skip
WRONG_SIZES = [
    *((bad, "must be a tensor, got ") for bad in (None, SIZES.tolist(), SIZES.numpy())),
    *((SIZES.to(kind), "must be int64 or int32 or int16, got ") for kind in
      (torch.float32, torch.bool, torch.uint8, torch.int8, torch.complex64)),
    *((bad, "must be [N, 2] = [2, 2], got [") for bad in (SIZES[0], SIZES[:1], SIZES.flatten(), SIZES[:, :1])),
    *((bad, "must be heights and widths within 64 x 96, got [[")
      for bad in (SIZES * 4, SIZES * 0, -SIZES, SIZES.flip(1))),
]  # fmt: skip


def test_images_and_sizes_are_told_alike_by_both_forms(model):
    forms = model.eval(), htc_fast.optimize(model.eval(), (64, 96), dtype=torch.float32)
    for form in forms:
        for bad, wanted in WRONG_IMAGES:
            with pytest.raises((TypeError, ValueError)) as caught:
                form.detect(bad, SIZES)
            assert str(caught.value).startswith(f"images {wanted}")
        for bad, wanted in WRONG_SIZES:
            with pytest.raises((TypeError, ValueError)) as caught:
                form.detect(IMAGES, bad)
            assert str(caught.value).startswith(f"image_sizes {wanted}")
        assert form.detect(IMAGES, SIZES.int()).count.shape == (2,)
    want = forms[1].detect(IMAGES, SIZES)
    assert torch.equal(forms[1].detect(IMAGES.double(), SIZES).scores, want.scores), "images are cast to its type"
    with pytest.raises(TypeError, match=r"^images must be torch\.float32 like the weights, got torch\.float16"):
        model.detect(IMAGES.half(), SIZES)
    with pytest.raises(ValueError, match=r"^images must be on cpu like the model, got meta: move them together"):
        model.detect(IMAGES.to("meta"), SIZES)


WRONG_TARGETS = [
    ("labels", LABELS + 1, "must be classes below 3, or -1 where padded, got 3"),
    ("labels", LABELS - 5, "must be classes below 3, or -1 where padded, got -5"),
    *(("labels", LABELS.to(kind), "must be int64, got ") for kind in (torch.float32, torch.int32, torch.uint8)),
    ("labels", LABELS[:, 0], "must be [2, 2] for these images and labels, got [2]"),
    ("labels", LABELS[:1], "must be [2, 2] for these images and labels, got [1, 2]"),
    ("boxes", torch.rand(2, 2, 5), "must be [2, 2, 4] for these images and labels, got [2, 2, 5]"),
    *(("boxes", bad, "must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, got [") for bad in
      (BOXES * torch.nan, BOXES * torch.inf, BOXES * 0, BOXES.flip(2))),
    ("masks", MASKS[:, :, :32], "must be [2, 2, 64, 96] for these images and labels, got [2, 2, 32, 96]"),
    ("masks", MASKS[:, :1], "must be [2, 2, 64, 96] for these images and labels, got [2, 1, 64, 96]"),
    ("semantic", SEMANTIC + 5, "must be classes below 5 or 255, got 5"),
    ("semantic", SEMANTIC - 1, "must be classes below 5 or 255, got -1"),
    ("semantic", SEMANTIC.byte(), "must be int64, got uint8"),
    ("semantic", torch.zeros(2, 64, 96, dtype=torch.int64), "must be [2, 8, 12] for these images and labels, got ["),
    *((name, bad, "must be a tensor, got ") for name in ("boxes", "labels", "masks")
      for bad in (None, [1], np.ones(3))),
]  # fmt: skip


def test_ground_truth_is_told(model):
    for name, bad, wanted in WRONG_TARGETS:
        with pytest.raises((TypeError, ValueError)) as caught:
            model.losses(IMAGES, SIZES, Targets(**{**GOOD, name: bad}))
        assert str(caught.value).startswith(f"targets.{name} {wanted}")
    for bad in (None, GOOD):
        with pytest.raises(TypeError, match=r"^targets must be models\.structures\.Targets, got "):
            model.losses(IMAGES, SIZES, bad)
    with pytest.raises(TypeError, match=r"^image_sizes must be int64 or int32 or int16, got bool"):
        model.losses(IMAGES, SIZES > 0, Targets(**GOOD))


def losses(model, **changed):
    targets = Targets(**{**GOOD, **changed})
    return model.losses(IMAGES, SIZES, targets, generator=torch.Generator().manual_seed(0))


def test_masks_of_255_are_masks_of_1(model):
    plain = losses(model)
    for same in (MASKS * 255, MASKS.bool(), MASKS.float()):
        assert all(torch.equal(one, plain[name]) for name, one in losses(model, masks=same).items())


def test_no_room_for_an_object_is_no_object(model):
    found = losses(model, boxes=BOXES[:, :0], labels=LABELS[:, :0], masks=MASKS[:, :0])
    padded = losses(model, labels=torch.full_like(LABELS, -1))
    assert found["stage1_mask"] == 0 and found["rpn_box"] == 0 and found["rpn_class"] == padded["rpn_class"]
