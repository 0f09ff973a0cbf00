"""Soft-NMS at the end of a detector, against its definition written out class by class."""

from dataclasses import replace

import pytest
import torch

from htc_fast.inference import optimize
from htc_fast.inference.export import export_detect
from htc_fast.models import postprocess, zoo
from htc_fast.models.structures import may_wait
from tests.models.test_family import decode
from tests.models.test_zoo import SIZES, tiny

STAGES = 3
VARIANTS = {
    "as it is": {},
    "boxes by class": {"class_agnostic": False},
    "second stage alone": {"test_stage": 2},
    "boxes by class, first stage alone": {"class_agnostic": False, "test_stage": 1},
    "probabilities averaged": {"score_average": "probabilities"},
    "more than decayed boxes have": {"score_threshold": 0.3},
    "more than decayed boxes have, by class": {"class_agnostic": False, "score_threshold": 0.3},
    "no threshold": {"score_threshold": 0.0},
    "another IoU": {"nms_iou": 0.2},
    "room for few": {"detections": 3},
    "room for all": {"detections": 300},
}


def config(**options):
    return zoo.config("htc_r50_softnms", **{"num_classes": 4, "detections": 30, **options})


def inputs(agnostic, seed=0, images=2, boxes=40, classes=4):
    """Boxes on a few objects, so that many overlap; the last three are none; some logits are broken."""
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(images, boxes, classes + 1, generator=generator) for _ in range(STAGES)]
    logits[0][0, 5], logits[1][1, 7, 2], logits[2][0, 9, 1] = torch.nan, torch.nan, torch.inf
    centre = 60 * torch.rand(images, 3, 2, generator=generator)
    first = centre[:, torch.arange(boxes) % 3] + 6 * torch.rand(images, boxes, 2, generator=generator)
    rois = torch.cat([first, first + 25 + 6 * torch.rand(images, boxes, 2, generator=generator)], 2)
    deltas = 0.5 * torch.randn(images, boxes, 4 if agnostic else 4 * classes, generator=generator)
    valid = torch.arange(boxes).expand(images, -1) < boxes - 3
    return logits, deltas, rois, valid, torch.tensor([[90, 100], [80, 70]])[:images]


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared) if shared > 0 else 0.0


def suppressed(boxes, scores, iou, least, threshold):
    """One class: the best is taken, what overlaps it by `iou` or more keeps 1 - IoU of its score, and again."""
    alive = {k: s for k, s in enumerate(scores) if s > threshold and s >= least}
    taken = []
    while alive:
        best = max(alive, key=lambda k: (alive[k], -k))
        taken.append((alive.pop(best), best))
        for k in list(alive):
            with_best = overlap(boxes[best], boxes[k])
            if with_best >= iou:
                alive[k] *= 1 - with_best
            if alive[k] <= threshold or alive[k] < least:
                del alive[k]
    return taken


def defined(config, logits, deltas, rois, valid, sizes):
    """Per image the detections (score, row, class, box), best first."""
    stage = config.test_stage
    logits = logits if stage is None else logits[-1:]
    std = config.stages.delta_std[(stage or 3) - 1]
    if config.score_average == "logits":
        probabilities = (sum(logits) / len(logits)).softmax(-1)
    else:
        probabilities = sum(one.softmax(-1) for one in logits) / len(logits)
    out = []
    for n in range(len(rois)):
        found = []
        for label in range(config.num_classes):
            own = deltas[n] if deltas.shape[2] == 4 else deltas[n, :, 4 * label : 4 * label + 4]
            boxes = decode(own, rois[n], std, sizes[n].tolist()).tolist()
            scores = torch.where(valid[n], probabilities[n, :, label], 0.0).nan_to_num(0.0).tolist()
            taken = suppressed(boxes, scores, config.nms_iou, 1e-3, config.score_threshold)
            found += [(score, row, label, boxes[row]) for score, row in taken]
        found.sort(key=lambda one: (-one[0], one[1], one[2]))
        out.append(found[: config.detections])
    return out


def compare(found, want, limit):
    boxes, scores, labels, count = found
    assert count.dtype == torch.int32 and labels.dtype == torch.int64 and scores.dtype == boxes.dtype == torch.float32
    assert scores.shape == labels.shape == boxes.shape[:2] == (len(want), limit)
    assert count.tolist() == [len(one) for one in want]
    for n, one in enumerate(want):
        assert labels[n].tolist() == [label for _, _, label, _ in one] + [-1] * (limit - len(one))
        for slot, (score, _, _, box) in enumerate(one):
            assert scores[n, slot].item() == pytest.approx(score, rel=1e-4, abs=1e-6)
            assert boxes[n, slot].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)
        assert not scores[n, len(one) :].any() and not boxes[n, len(one) :].any()


@pytest.mark.parametrize("waits", [True, False], ids=["where looking is free", "elsewhere"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_definition(variant, waits, monkeypatch):
    monkeypatch.setattr(postprocess, "may_wait", lambda tensor: waits and may_wait(tensor))
    own = config(**VARIANTS[variant])
    logits, *rest = inputs(own.class_agnostic)
    want = defined(own, logits, *rest)
    decayed = [s for one in want for s, *_ in one]
    assert decayed and (own.score_threshold > 0.1 or own.detections == 3 or min(decayed) < 0.1)
    every = logits if own.test_stage is None else logits[-1:]
    compare(postprocess.detections(own, every, *rest), want, own.detections)


def test_it_differs_from_hard_suppression_where_boxes_overlap():
    soft, hard = config(), config(soft_nms=False)
    logits, *rest = inputs(True)
    found, other = (postprocess.detections(one, logits, *rest) for one in (soft, hard))
    assert not torch.equal(found[1], other[1]) and torch.equal(found[1][:, 0], other[1][:, 0])
    far = replace(soft, nms_iou=1.0), replace(hard, nms_iou=1.0)  # nothing is suppressed
    found, other = (postprocess.detections(one, logits, *rest) for one in far)
    assert all(map(torch.equal, found, other))


def one_class(scores, boxes, threshold):
    own = config(num_classes=1, detections=4, score_threshold=threshold)
    return postprocess.select(own, torch.tensor(scores)[None, :, None], torch.tensor(boxes)[None, :, None])


def test_literal_scores():
    """IoU 0.6 of the first two: 0.8 * 0.4. The third, 0.5 away from nobody, stays."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 2.5, 10.0, 12.5], [50.0, 0.0, 60.0, 10.0]]
    found, scores, labels, count = one_class([0.9, 0.8, 0.5], boxes, 0.001)
    assert scores[0].tolist() == pytest.approx([0.9, 0.5, 0.32, 0.0])
    assert labels.tolist() == [[0, 0, 0, -1]] and count.tolist() == [3]
    assert found[0].tolist() == [boxes[0], boxes[2], boxes[1], [0.0] * 4]


@pytest.mark.parametrize("threshold, kept", [(0.499, 2), (0.5, 1), (0.501, 1), (0.0, 2), (1.0, 0)])
def test_scores_are_above_the_threshold_after_their_decay_too(threshold, kept):
    """The second box's IoU is 1/2 exactly, and so is its score then."""
    boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]]
    assert one_class([1.0, 1.0], boxes, threshold)[3].tolist() == [kept]


@pytest.mark.parametrize("threshold, kept", [(0.0, [0.5, 0.002, 0.001]), (0.001, [0.5, 0.002]), (0.002, [0.5])])
def test_the_least_score_is_a_thousandth(threshold, kept):
    boxes = [[20.0 * k, 0.0, 20.0 * k + 10, 10.0] for k in range(6)]
    scores = [0.0009, 0.001, 0.002, 0.5, torch.nan, 0.0]
    found = one_class(scores, boxes, threshold)
    assert found[1][0, : len(kept)].tolist() == pytest.approx(kept) and found[3].tolist() == [min(len(kept), 4)]


def test_no_box_at_all():
    logits, deltas, rois, valid, sizes = inputs(False)
    for agnostic in (True, False):
        own = config(class_agnostic=agnostic)
        moves = deltas[..., :4] if agnostic else deltas
        boxes, scores, labels, count = postprocess.detections(own, logits, moves, rois, valid & False, sizes)
        assert count.tolist() == [0, 0] and (labels == -1).all() and not scores.any() and not boxes.any()
        one = valid.clone()
        one[0] = False  # in one of two images
        assert postprocess.detections(own, logits, moves, rois, one, sizes)[3].tolist() == [0, 30]


@pytest.mark.parametrize("agnostic", [True, False])
def test_in_16_bits(agnostic):
    """Logits and deltas in 16 bits give what their values do in 32."""
    own = config(class_agnostic=agnostic)
    logits, deltas, *rest = inputs(own.class_agnostic)
    low = [one.bfloat16() for one in logits], deltas.bfloat16()
    found = postprocess.detections(own, *low, *rest)
    want = postprocess.detections(own, [one.float() for one in low[0]], low[1].float(), *rest)
    assert all(map(torch.equal, found, want))


def test_a_detector_exports_and_optimizes():
    model = tiny("htc_r50_softnms", class_agnostic=False).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    want = model.detect(images, SIZES)
    assert want.count.min() > 0
    program = export_detect(model, (64, 96), batch_size=2).module()(images, SIZES)
    fast = vars(optimize(model, (64, 96), 2, torch.float32).detect(images, SIZES))
    for found in (program, fast):
        assert torch.equal(found["labels"], want.labels) and torch.equal(found["count"], want.count)
        for key in ("boxes", "scores", "masks"):
            torch.testing.assert_close(found[key], getattr(want, key), rtol=1e-4, atol=1e-3)
    low = optimize(model, (64, 96), 2, torch.bfloat16).detect(images, SIZES)
    torch.testing.assert_close(low.scores, want.scores, rtol=0.05, atol=0.02)
