"""Every intermediate of mmdetection 3.3.0's inference, number for number."""

import pytest
import torch

from htc_fast import ops
from htc_fast.models.htc import ROI_SCALES
from htc_fast.models.rpn import RPN
from tests import golden

pytestmark = pytest.mark.slow  # tests/criterion/test_golden_step.py is the quick one


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return golden.model(tmp_path_factory.mktemp("golden")).eval()


@pytest.fixture(scope="module")
def expected():
    return golden.arrays("expected")


@pytest.fixture(scope="module")
def maps(model):
    with torch.no_grad():
        images = golden.images(model.config)
        features = model.extract(images)
        return images, features, *model.semantic(features)


SIZE = torch.tensor([[256, 320]])


def close(got, want, tolerance=1e-4):
    """Relative to the largest value."""
    want = want.to(got.dtype)
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@torch.no_grad()
def test_feature_maps(model, expected, maps):
    images, features, semantic, logits = maps
    levels = {f"C{i + 2}": one for i, one in enumerate(model.backbone(images))}
    levels.update({f"P{i + 2}": one for i, one in enumerate(features)})
    levels.update({"semantic_feat": semantic, "semantic_logits": logits})
    for name, one in levels.items():
        close(one[0, ::16, :6, :6], expected[f"{name}_patch"])
        close(one.double().norm(), expected[f"{name}_norm"])
    for i, (objectness, deltas) in enumerate(zip(*model.rpn(features), strict=True)):
        close(torch.stack([objectness.double().norm(), deltas.double().norm()]), expected[f"rpn{i}_norms"])


def test_proposals(model, expected, maps):
    with torch.no_grad():
        boxes, scores, valid = model.rpn.propose(model.rpn(maps[1]), SIZE, 1000, 1000)
    assert valid.all()
    # These weights turn anchors into boxes up to 60 times as large, and rounding with them; boxes of equal scores may
    # change places.
    apart = torch.cdist(boxes[0], expected["proposals"], p=float("inf"))
    assert apart.amin(dim=0).max() < 3e-2 and apart.amin(dim=1).max() < 3e-2
    assert apart.amin(dim=1).mean() < 1e-3 and (apart.diagonal() < 3e-2).float().mean() > 0.99
    assert (scores[0] - expected["proposal_scores"]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 1, 2])
def test_box_stages(model, expected, maps, t):
    _, features, semantic, _ = maps
    rois = expected[f"stage{t}_rois"]
    pooled = ops.multi_level_roi_align(features[:4], rois, 7, ROI_SCALES)
    close(pooled[:8, ::8], expected[f"stage{t}_roi_feats_fpn"], 1e-3)  # recorded in float16
    grid = ops.roi_align(semantic, rois, 14, 1 / 8, 0, aligned=True)
    close(grid[:8, ::8], expected[f"stage{t}_roi_feats_sem14"], 1e-3)  # recorded in float16
    logits, deltas = model.box_stage(t, features, semantic, rois[None, :, 1:])
    close(logits[0], expected[f"stage{t}_cls_logits"], 1e-3)  # recorded in float16
    close(deltas[0], expected[f"stage{t}_bbox_deltas"])
    if t < 2:
        refined = model.refine(t, rois[None, :, 1:], logits, deltas, SIZE)
        assert (refined[0] - expected[f"stage{t + 1}_rois"][:, 1:]).abs().max() < 1e-2


def matched(detections, expected):
    boxes = (detections.boxes[0] - expected["det_boxes"]).abs().amax(dim=1)
    scores = (detections.scores[0] - expected["det_scores"]).abs()
    masks = (detections.masks[0] - expected["mask_prob_selected_mean3"].float()).abs().amax(dim=(1, 2))
    assert detections.count.tolist() == [100]
    assert torch.equal(detections.labels[0], expected["det_labels"])
    return boxes, scores, masks


def test_detections_from_the_recorded_proposals(model, expected, maps, monkeypatch):
    recorded = expected["proposals"][None], expected["proposal_scores"][None], torch.ones(1, 1000, dtype=torch.bool)
    monkeypatch.setattr(RPN, "propose", lambda *_: recorded)
    boxes, scores, masks = matched(model.detect(maps[0], SIZE), expected)
    assert boxes.max() < 1e-2 and scores.max() < 1e-4 and masks.max() < 2e-3


def test_detections_end_to_end(model, expected, maps):
    boxes, scores, masks = matched(model.detect(maps[0], SIZE), expected)
    # A few boxes inherit the proposals' amplified rounding: see test_proposals.
    assert (boxes < 1e-2).float().mean() >= 0.97 and boxes.max() < 5e-2
    assert (scores < 1e-4).float().mean() >= 0.9 and scores.max() < 1e-3  # sums in one thread: 0.91; in two: 0.93
    assert (masks < 2e-3).float().mean() >= 0.97 and masks.max() < 5e-3


@torch.no_grad()
def test_mask_heads(model, expected, maps):
    _, features, semantic, _ = maps
    rois = torch.cat([torch.zeros(100, 1), expected["det_boxes"]], dim=1)
    flow = model._flow(model.mask_features(features, semantic, rois), 2)
    for t, one in enumerate(flow):
        got = model.mask_heads[t].predict(one, expected["det_labels"])
        close(got, expected[f"mask_logits_stage{t}"], 1e-3)  # recorded in float16
        every = model.mask_stage(t, features, semantic, rois)
        own = every[torch.arange(100), expected["det_labels"]]
        torch.testing.assert_close(own, got, rtol=1e-4, atol=1e-4)


def test_last_stage_alone_is_what_mmdetection_3_does(model, expected, maps):
    _, features, semantic, _ = maps
    rois = torch.cat([torch.zeros(100, 1), expected["det_boxes"]], dim=1)
    with torch.no_grad():
        flow = model._flow(model.mask_features(features, semantic, rois), 2)
        last = model.mask_heads[2].predict(flow[2], expected["det_labels"]).sigmoid()
    assert (last - expected["mask_prob_selected_mmdet330"].float()).abs().max() < 2e-3
