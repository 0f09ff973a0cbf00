"""Detectors whose classes compete without the background: scores as plain softmaxes say, in every way to detect."""

import copy
import warnings

import pytest
import torch

from htc_fast.inference import Views, optimize
from htc_fast.inference.export import export_detect, waits
from htc_fast.models import seesaw
from htc_fast.ops.reference.boxes import decode_boxes
from tests.inference.test_optimize import assert_equal, detector, images
from tests.inference.test_views import SIZES as SIDES
from tests.inference.test_views import UPRIGHT, found_by, same
from tests.models.test_zoo import SIZES, tiny


def sharp(name, **fields):
    """A detector whose logits are far from zero, so that means of logits and of probabilities differ."""
    model = detector(name, class_loss="seesaw", **fields)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for head in model.box_heads:
            head.classes.weight.copy_(0.6 * torch.randn(head.classes.weight.shape, generator=generator))
            head.classes.bias.copy_(torch.randn(head.classes.bias.shape, generator=generator))
            head.deltas.weight.copy_(0.05 * torch.randn(head.deltas.weight.shape, generator=generator))
    return model


def scores_of(raw):
    """Softmax over the classes, times the objectness: [..., classes] and the background behind them."""
    classes, objectness = raw[..., :-2].softmax(-1), raw[..., -2:].softmax(-1)
    return torch.cat([classes * objectness[..., :1], objectness[..., 1:]], dim=-1)


def test_ordinary_logits():
    raw = torch.tensor([[1.0, 2.0, 0.5, -1.0], [-80.0, 80.0, 60.0, -60.0], [0.0, 0.0, 0.0, 0.0]])
    found = seesaw.ordinary(raw).softmax(-1)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found, scores_of(raw))
    torch.testing.assert_close(found[2], torch.tensor([0.25, 0.25, 0.5]))
    assert seesaw.ordinary(raw.bfloat16()).dtype == torch.float32
    assert seesaw.ordinary(torch.tensor([[torch.nan, 0.0, 1.0, 1.0]]))[:, :-1].isnan().all()


def by_hand(model, x, sizes):
    """Scores [N, R, classes] of the stages that count, from the layers' own outputs; and the last stage's boxes."""
    config, features = model.config, model.extract(x)
    semantic, _ = model.semantic(features)
    boxes, _, valid = model.propose(features, sizes)
    raw = []
    for t in range(config.last_stage + 1):
        logits, deltas = model.box_stage(t, features, semantic, boxes)
        raw.append(logits)
        assert logits.shape[-1] == config.num_classes + 2
        moves, std = deltas, config.stages.delta_std[t]
        if t < config.last_stage:
            if not config.class_agnostic:
                best = logits[..., : config.num_classes].argmax(-1)
                moves = deltas.unflatten(-1, (-1, 4)).gather(2, best[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
            boxes = decode_boxes(moves, boxes, std, sizes)
    raw = raw if config.test_stage is None else raw[-1:]
    if config.score_average == "logits":
        scores = scores_of(sum(raw) / len(raw))
    else:
        scores = sum(map(scores_of, raw)) / len(raw)
    return scores[..., :-1].masked_fill(~valid[..., None], 0), boxes


CASES = {
    "mean of logits": ("htc_r50", {}),
    "mean of probabilities": ("htc_r50", {"score_average": "probabilities"}),
    "second stage alone": ("htc_r50", {"test_stage": 2}),
    "boxes by class": ("htc_r50", {"class_agnostic": False}),
    "one stage": ("mask_rcnn_r50", {}),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_scores_are_those_of_plain_softmaxes(case):
    name, fields = CASES[case]
    model = sharp(name, **fields, nms_iou=1.0, score_threshold=0.0, detections=30 * 3)
    scores, boxes = by_hand(model, images(), SIZES)
    features = model.extract(images())
    proposals, *_ = model.propose(features, SIZES)
    *_, last = model.cascade(features, model.semantic(features)[0], proposals, SIZES)
    torch.testing.assert_close(last, boxes, rtol=1e-4, atol=1e-3)
    found = model.detect(images(), SIZES)
    # Where nothing is suppressed, every box is found with every class.
    best = scores.flatten(1).sort(dim=1, descending=True).values
    assert found.count.min() > 20
    for n, count in enumerate(found.count.tolist()):
        torch.testing.assert_close(found.scores[n, :count], best[n, :count], rtol=1e-4, atol=1e-5)
        labels = scores[n].flatten().argsort(descending=True)[:5] % 3
        assert found.labels[n, :5].tolist() == labels.tolist()


def test_the_means_differ():
    one, other = (sharp("htc_r50", score_average=kind).detect(images(), SIZES) for kind in ("logits", "probabilities"))
    assert (one.scores - other.scores).abs().max() > 0.01


@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50", "panet_r50", "htc_r50_softnms"])
def test_optimized_in_float32_it_is_the_same(name):
    model = sharp(name, class_agnostic=False)
    fast = optimize(model, (64, 96), batch_size=2, dtype=torch.float32)
    assert_equal(fast.detect(images(), SIZES), model.detect(images(), SIZES))


def test_sixteen_bits_find_much_the_same():
    model = sharp("htc_r50")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor without bf16 says so
        fast = optimize(model, (64, 96), batch_size=2)
    found, want = fast.detect(images(), SIZES), model.detect(images(), SIZES)
    assert (found.count - want.count).abs().max() <= 1 and found.masks.isfinite().all()
    torch.testing.assert_close(found.scores[:, 0], want.scores[:, 0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("fields", [{}, {"class_agnostic": False, "score_average": "probabilities"}])
def test_its_program_has_fixed_shapes_and_no_waits(fields):
    model = sharp("htc_r50", **fields)
    program = export_detect(model, (64, 96))
    assert waits(program) == []
    example = images(1), SIZES[:1]
    with torch.no_grad():
        found, want = program.module()(*example), model.detect(*example)
    assert torch.equal(found["labels"], want.labels) and want.count.item() > 0
    torch.testing.assert_close(found["scores"], want.scores, rtol=1e-4, atol=1e-5)


def test_views_agree():
    model = sharp("htc_r50", image_size=(64, 96))
    wanted = found_by(model, UPRIGHT)
    assert same(found_by(Views(model, None, flip=False), UPRIGHT), wanted, 0) == 1
    several = Views([model, copy.deepcopy(model)], SIDES)
    assert same(found_by(several, UPRIGHT), found_by(Views(model, SIDES), UPRIGHT), 1e-4) == 1


def test_views_with_other_classifiers():
    """What they say is averaged as scores, so that detectors of both kinds look together."""
    found = found_by(Views([sharp("htc_r50"), tiny("htc_r50").eval()], SIDES), UPRIGHT)
    assert len(found[0]) > 2 and (found[0].scores < 1).all()


def test_the_default_is_as_ever():
    plain, other = (tiny("htc_r50", class_loss=kind) for kind in ("cross_entropy", "seesaw"))
    assert set(other.state_dict()) - set(plain.state_dict()) == {f"box_heads.{t}.classes.counts" for t in range(3)}
    assert set(plain.state_dict()) <= set(other.state_dict())
    assert plain.box_heads[0].classes.weight.shape == (4, 32) and other.box_heads[0].classes.weight.shape == (5, 32)
