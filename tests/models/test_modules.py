"""Table 8's modules in a detector, alone and all at once: detect, train, export, optimize."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast import ops
from htc_fast.criterion.losses import losses
from htc_fast.inference import optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.models.htc import ROI_SCALES
from htc_fast.ops.reference import pr_roi_pool as exact
from tests.criterion.test_family_losses import targets
from tests.inference.test_optimize import assert_equal, detector, images
from tests.models.test_zoo import SIZES, tiny

ALL = {"neck": "pafpn", "aspp": True, "gcn": True, "roi_pooling": "pr_roi_pool", "soft_nms": True}
CASES = {name: {name: value} for name, value in ALL.items()}
CASES |= {"pr_roi_pool as the paper's": {"roi_pooling": "pr_roi_pool", "roi_aligned": False}, "all": ALL}
MORE = {"all, wide enough for Winograd": {**ALL, "backbone": "resnet18", "channels": 64, "detections": 4}}
BOTH = CASES | MORE


def test_their_names_in_the_zoo():
    for name, (key, value) in zip(("pafpn", "aspp", "gcn", "prroipool", "softnms"), ALL.items(), strict=True):
        assert getattr(tiny(f"htc_r50_{name}").config, key) == value


@pytest.mark.parametrize("case", BOTH)
@torch.no_grad()
def test_optimized_they_find_the_same(case):
    model = detector("htc_r50", **BOTH[case])
    want = model.detect(images(), SIZES)
    assert_equal(optimize(model, (64, 96), 2, torch.float32).detect(images(), SIZES), want)
    low = optimize(model, (64, 96), 2, torch.bfloat16).detect(images(), SIZES)
    torch.testing.assert_close(low.scores, want.scores, rtol=0.05, atol=0.02)


def test_they_export_without_waits():
    model = tiny("htc_r50", **ALL).eval()
    program = export_detect(model, (64, 96), 2)
    assert waits(program) == []
    found, want = program.module()(images(), SIZES), model.detect(images(), SIZES)
    assert torch.equal(found["labels"], want.labels) and want.count.min() > 0
    torch.testing.assert_close(found["boxes"], want.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["masks"], want.masks, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_they_train(case, dtype):
    model = tiny("htc_r50", **CASES[case]).train()
    torch.manual_seed(1)
    pictures, sizes = torch.randn(3, 3, 64, 96), torch.tensor([[60, 90], [64, 96], [40, 41]])
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        terms = losses(model, pictures, sizes, targets())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    parts = [part for part in (model.pafpn, model.aspp, model.semantic_head.lateral, model.fpn) if part is not None]
    for parameter in (one for part in parts for one in part.parameters()):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


def rois():
    generator = torch.Generator().manual_seed(2)
    first = 60 * torch.rand(2, 9, 2, generator=generator)
    sides = torch.tensor([3.0, 10, 50, 111, 112, 224, 448, 20, 0])[:, None] * torch.tensor([1.0, 1.0])
    return torch.cat([first, first + sides], 2)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("semantic", ["none", "both"])
@torch.no_grad()
def test_every_roi_is_pooled_exactly(aligned, semantic):
    """S as the definition has it: on a grid of 14 x 14, averaged to 7 x 7 for boxes."""
    model = tiny("htc_r50", roi_pooling="pr_roi_pool", roi_aligned=aligned, semantic=semantic).eval()
    features = [torch.randn(2, 16, 128 // 2**level, 160 // 2**level) for level in range(5)]
    s = torch.randn(2, 16, 64, 80) if semantic == "both" else None
    boxes = rois()
    levels = (((boxes[..., 2:] - boxes[..., :2]).prod(2).sqrt() / 56 + 1e-6).log2().floor().clamp(0, 3)).long()
    assert set(levels.flatten().tolist()) == {0, 1, 2, 3}

    def one(image, box, bins, scale):
        return exact.pool_one(image, box, (bins, bins), scale, 0.5 if aligned else 0.0)

    for size, found in ((7, model._pool(features, s, boxes, 7)), (14, model.mask_features(features, s, boxes))):
        for k, (n, box, level) in enumerate(zip([0] * 9 + [1] * 9, boxes.flatten(0, 1), levels.flatten().tolist())):
            want = one(features[level][n], box, size, ROI_SCALES[level])
            if s is not None:
                want = want + F.adaptive_avg_pool2d(one(s[n], box, 14, 1 / 8), size)
            torch.testing.assert_close(found[k], want, rtol=1e-4, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_pooled_in_16_bits(dtype):
    model = tiny("htc_r50_prroipool").eval()
    features = [torch.randn(2, 16, 64 // 2**level, 96 // 2**level).to(dtype) for level in range(4)]
    s = torch.randn(2, 16, 32, 48).to(dtype)
    found = model._pool(features, s, rois(), 7)
    want = model._pool([one.float() for one in features], s.float(), rois(), 7)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), want, rtol=0.02, atol=0.02)


def test_boxes_get_no_gradient():
    model = tiny("htc_r50_prroipool")
    features = [torch.randn(1, 16, 64 // 2**level, 96 // 2**level, requires_grad=True) for level in range(4)]
    boxes = rois()[:1].requires_grad_()
    model._pool(features, None, boxes, 7).sum().backward()
    assert boxes.grad is None and features[0].grad.abs().sum() > 0
    assert ops.pr_roi_pool(features, boxes, 7, ROI_SCALES).requires_grad
