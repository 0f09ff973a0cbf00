"""Several looks at one picture: equal to the detector where there is one, to the definition where there are more."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from htc_fast import UserError, ops
from htc_fast.data.pictures import preprocess
from htc_fast.inference import Views, optimize
from htc_fast.inference.predict import at_stage
from htc_fast.inference.view import scaled
from htc_fast.inference.views import SIDES, merge_proposals, sizes_of
from htc_fast.models import postprocess
from htc_fast.models.structures import ViewsLike
from htc_fast.ops.reference.detections import decoded
from tests.models.test_zoo import tiny

random = np.random.default_rng(0)
LYING = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
UPRIGHT = random.integers(0, 256, (110, 70, 3), dtype=np.uint8)
SMALL = random.integers(0, 256, (20, 31, 3), dtype=np.uint8)
PICTURES = [LYING, UPRIGHT, SMALL]
SIZES = [(64, 96), (100, 130)]
OTHER = {"mean": (100.0, 110.0, 120.0), "std": (50.0, 60.0, 70.0), "num_classes": 3}


def found_by(model, pictures=PICTURES, **options):
    return model.predict(pictures, score_threshold=0.0, **options)


def same(found, wanted, tolerance):
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted):
        assert len(one) > 2 and torch.equal(one.labels, other.labels) and one.size == other.size
        assert torch.allclose(one.boxes, other.boxes, rtol=0, atol=tolerance)
        assert torch.allclose(one.scores, other.scores, rtol=0, atol=tolerance)
        assert one.rle == other.rle
    return len(found)


@pytest.mark.parametrize("size", [None, (100, 130)])
@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50", "htc_r50_softnms", "scnet_r50"])
def test_one_view_is_the_detector(name, size):
    model = tiny(name, image_size=(64, 96)).eval()
    wanted = found_by(model, size=size)
    assert same(found_by(Views(model, None, flip=False), size=size), wanted, 0) == 3
    assert same(found_by(Views(model, [size or (64, 96)], flip=False)), wanted, 0) == 3
    copies = Views([model, copy.deepcopy(model)], None, flip=False)
    assert same(found_by(copies, size=size), wanted, 1e-4) == 3


def test_a_copy_is_no_further_opinion():
    model = tiny("htc_r50").eval()
    several = Views([model, copy.deepcopy(model), model], SIZES)
    assert same(found_by(several, UPRIGHT), found_by(Views(model, SIZES), UPRIGHT), 1e-4) == 1


def test_a_mirrored_picture_is_found_mirrored():
    views = Views(tiny("htc_r50", nms_iou=0.3).eval(), SIZES)
    mirrored = found_by(views, [np.ascontiguousarray(picture[:, ::-1]) for picture in PICTURES])
    for one, other in zip(found_by(views), mirrored):
        x1, y1, x2, y2 = other.boxes.unbind(1)
        width = one.size[1]
        assert len(one) > 2 and torch.equal(one.labels, other.labels)
        assert torch.allclose(one.boxes, torch.stack([width - x2, y1, width - x1, y2], dim=1), atol=1e-3)
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
        assert (one.masks != other.masks.flip(2)).float().mean() < 1e-3


def test_a_symmetric_picture_has_symmetric_objects():
    """Where nothing is suppressed or cut off: of two that are mirrored and equal, one comes first."""
    every = {"rpn_proposals_per_level": 10, "rpn_proposals": 100, "rpn_nms_iou": 1.0, "nms_iou": 1.0}
    model = tiny("htc_r50", **every, detections=300, score_threshold=0.0).eval()
    symmetric = np.concatenate([LYING, LYING[:, ::-1]], axis=1)
    for flip in (True, False):
        (found,) = found_by(Views(model, [(64, 192)], flip), symmetric)
        x1, y1, x2, y2 = found.boxes.unbind(1)
        mirrored = torch.stack([180 - x2, y1, 180 - x1, y2], dim=1)
        apart = (found.boxes[:, None] - mirrored).abs().amax(2) + 180 * (found.scores[:, None] - found.scores).abs()
        nearest = apart.masked_fill(found.labels[:, None] != found.labels, torch.inf).amin(1).max()
        assert len(found) > 100 and (found.boxes - mirrored).abs().amax(1).median() > 1
        assert nearest < 1e-2 if flip else nearest > 0.1


def mapped(boxes, picture, image_sizes, flip, back):
    """Boxes of the picture's own pixels in a view's, or back, one by one."""
    height, width = picture.shape[:2]
    down, across = image_sizes[0, 0] / height, image_sizes[0, 1] / width
    x1, y1, x2, y2 = (boxes / torch.stack([across, down, across, down]) if back else boxes).unbind(-1)
    x1, x2 = (width - x2, width - x1) if flip else (x1, x2)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1)
    return boxes if back else boxes * torch.stack([across, down, across, down])


def by_definition(models, picture, sizes):
    """The merge as it is written down, in the picture's own pixels: boxes, scores, labels, masks."""
    views = []
    for model in models:
        for size in sizes:
            for flip in (False, True):
                # Mirrored before it is resized, which makes a grey level of difference at most.
                shown = np.ascontiguousarray(picture[:, ::-1]) if flip else picture
                images, sizes_there, _ = preprocess([shown], size, model.config.mean, model.config.std)
                features = model.extract(images)
                views.append((model, features, model.semantic(features)[0], sizes_there, flip))
    boxes, scores = [], []
    for model, features, _, there, flip in views:
        own, own_scores, valid = model.rpn.propose(model.rpn(features), there, 50, 30)
        boxes.append(mapped(own[valid], picture, there, flip, back=True))
        scores.append(own_scores[valid])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    proposals = boxes[ops.nms(boxes, scores, 0.7)[:30]][None]
    every_score, every_box = [], []
    for model, features, semantic, there, flip in views:
        boxes, logits = mapped(proposals, picture, there, flip, back=False), []
        for t in range(len(model.box_heads)):
            stage_logits, deltas = model.box_stage(t, features, semantic, boxes)
            logits.append(stage_logits)
            before, boxes = boxes, model.refine(t, boxes, stage_logits, deltas, there)
        every_score.append(torch.stack(logits).mean(0).softmax(dim=2)[..., :-1])
        seen = decoded(deltas, before, model.config.stages.delta_std[t], there, 3).expand(-1, -1, 3, -1)
        every_box.append(mapped(seen, picture, there, flip, back=True))
    boxes, scores = sum(every_box) / len(views), sum(every_score) / len(views)
    boxes, scores, labels, _ = postprocess.select(models[0].config, scores, boxes)
    maps = []
    for model, features, semantic, there, flip in views:
        seen = mapped(boxes, picture, there, flip, back=False)
        stages = [model.mask_stage(t, features, semantic, seen).sigmoid() for t in range(len(model.mask_heads))]
        masks = torch.stack(stages).mean(0)[torch.arange(labels.shape[1]), labels[0]]
        maps.append(masks.flip(2) if flip else masks)
    return boxes[0], scores[0], labels[0], torch.stack(maps).mean(0)


@torch.no_grad()
@pytest.mark.parametrize("names", [["htc_r50"], ["mask_rcnn_r50"], ["htc_r50", "mask_rcnn_r50", "htc_r50_nosem"]])
@pytest.mark.parametrize("picture", [LYING, UPRIGHT, SMALL], ids=["lying", "upright", "small"])
def test_the_definition(names, picture):
    options = {"nms_iou": 0.3, "detections": 5}
    models = [tiny(name, **(OTHER if place else {}), **options).eval() for place, name in enumerate(names)]
    for seed, model in enumerate(models):
        # Scores that are apart, so that a grey level does not change their order.
        torch.manual_seed(seed)
        for head in model.box_heads:
            head.classes.weight.normal_(std=0.3)
            head.deltas.weight.normal_(std=0.1)
    boxes, scores, labels, masks = by_definition(models, picture, SIZES)
    found, frame = Views(models, SIZES).look(torch.from_numpy(picture).permute(2, 0, 1))
    assert found.labels[0].tolist() == labels.tolist() and int(found.count) == len(labels) == 5
    assert torch.allclose(scaled(found.boxes[0], frame, picture.shape[:2]), boxes, atol=0.05)
    assert torch.allclose(found.scores[0], scores, atol=2e-3) and len(set(scores.tolist())) == 5
    assert torch.allclose(found.masks[0], masks, atol=5e-3)
    alone = models[0].predict(picture, score_threshold=0.0, size=SIZES[0])[0]
    assert (alone.boxes[:1] - boxes[:1]).abs().max() > 0.1  # the views have something to say


def test_proposals_of_several_views_by_hand():
    a = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]]]), torch.tensor([[0.9, 0.4, 0.0]])
    b = torch.tensor([[[0.0, 0, 10, 9], [20, 0, 30, 20], [50, 0, 60, 10]]]), torch.tensor([[0.8, 0.7, 0.3]])
    views = [(*a, torch.tensor([[True, True, False]])), (*b, torch.tensor([[True, True, True]]))]
    boxes, valid = merge_proposals(views, 0.7, 1000)
    # 10 x 9 in 10 x 10 goes, 10 x 10 in 10 x 20 does not, the best come first.
    assert boxes[valid].tolist() == [[0, 0, 10, 10], [20, 0, 30, 20], [20, 0, 30, 10], [50, 0, 60, 10]]
    assert merge_proposals(views, 0.4, 1000)[0][0].tolist() == [[0, 0, 10, 10], [20, 0, 30, 20], [50, 0, 60, 10]]
    assert merge_proposals(views, 0.7, 2)[0].tolist() == [[[0, 0, 10, 10], [20, 0, 30, 20]]]
    # Copies have nothing to add, and nothing of theirs goes.
    assert torch.equal(merge_proposals([views[1]] * 3, 0.0, 1000)[0], b[0])


def test_the_paper_s_views():
    assert sizes_of(SIDES) == ((600, 900), (800, 1200), (1000, 1500), (1200, 1800), (1400, 2100))
    views = Views(tiny("htc_r50"))
    assert views.sizes == sizes_of(SIDES) and len(list(views._plan(None))) == 10 and isinstance(views, ViewsLike)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_stage_alone(stage):
    model, other = tiny("htc_r50"), tiny("htc_r50", test_stage=stage).eval()
    views = Views(model, [(64, 96)], flip=False)
    before, wanted = model.config, found_by(other, LYING, size=(64, 96))
    with at_stage(views, stage):
        same(found_by(views, LYING), wanted, 0)
    assert model.config is before and views.config.test_stage is None and model.training
    same(found_by(Views([other, model], [(64, 96)], flip=False), LYING), wanted, 1e-4)


def test_a_stage_that_one_has_not():
    views = Views([tiny("htc_r50"), tiny("mask_rcnn_r50")])
    with pytest.raises(UserError, match="there is no stage 2: mask_rcnn_r50 has one stage"), at_stage(views, 2):
        pass
    with pytest.raises(UserError, match="there is no stage 3: mask_rcnn_r50 has one stage"):
        Views([tiny("htc_r50", test_stage=3), tiny("mask_rcnn_r50")])


def test_thresholds_are_the_first_one_s():
    views = Views([tiny("htc_r50"), tiny("htc_r50", detections=3)], [(64, 96)])
    assert len(found_by(views, LYING)[0]) == 8
    views.config = replace(views.config, detections=2)
    assert len(found_by(views, LYING)[0]) == 2
    assert views.predict(LYING, score_threshold=1.0)[0].boxes.shape == (0, 4)


def test_features_are_computed_once_and_batches_are_taken_one_by_one(monkeypatch):
    model, seen = tiny("htc_r50"), []
    extract = model.extract
    monkeypatch.setattr(model, "extract", lambda images: seen.append(tuple(images.shape)) or extract(images))
    views = Views(model, SIZES)
    wanted = found_by(views)
    assert len(seen) == 3 * 4 and seen[:4] == [(1, 3, 64, 96)] * 2 + [(1, 3, 96, 160)] * 2
    same(found_by(views, batch_size=3), wanted, 0)


def test_views_of_optimized_detectors():
    model = tiny("htc_r50").eval()
    fast = optimize(model, (128, 192), dtype=torch.float32)
    same(found_by(Views(fast, SIZES), LYING), found_by(Views(model, SIZES), LYING), 1e-3)
    changed = Views(model, SIZES)
    changed.config = replace(changed.config, detections=3, test_stage=1)
    assert changed.optimized().config == changed.config
    same(found_by(changed.optimized(), LYING), found_by(changed, LYING), 1e-3)
    with torch.no_grad():
        model.fpn.output[0].bias.add_(1)
    with pytest.raises(RuntimeError, match="the detector changed after optimize copied it"):
        found_by(Views(fast, SIZES))


@pytest.mark.parametrize("how", ["autocast", "double", "optimized"])
def test_other_precisions(how):
    model = tiny("htc_r50").eval()
    wanted = found_by(Views(model, SIZES), LYING)[0].scores
    if how == "double":
        views = Views(copy.deepcopy(model).double(), SIZES)
    else:
        views = Views(optimize(model, (128, 192), dtype=torch.float32) if how == "optimized" else model, SIZES)
    with torch.autocast("cpu", torch.bfloat16, enabled=how != "double"):
        found = found_by(views, LYING)[0].scores
    assert torch.allclose(found, wanted, atol={"autocast": 0.02, "double": 1e-4, "optimized": 1e-4}[how])
    assert how != "autocast" or not torch.equal(found, wanted)


def test_memory_that_runs_out_is_one_sentence(monkeypatch):
    views = Views(tiny("htc_r50"), SIZES)

    def extract(images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(views.models[0], "extract", extract)
    with pytest.raises(UserError, match=r"out of memory for 4 views at once of a picture of 90 x 60 pixels: take few"):
        views.predict(LYING)
    monkeypatch.setattr(views.models[0], "extract", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        views.predict(LYING)


def test_the_detectors_are_left_as_they_were():
    models = tiny("htc_r50").train(), tiny("htc_r50").eval()
    before = [one.config for one in models]
    Views(models, [(64, 96)]).predict(LYING)
    assert [one.training for one in models] == [True, False]
    assert all(one.config is config for one, config in zip(models, before))


def test_names_are_those_that_any_has():
    names, ids = ("cat", "dog", "owl"), (3, 5, 9)
    models = tiny("htc_r50"), tiny("htc_r50", class_names=names, category_ids=ids), tiny("htc_r50", class_names=names)
    views = Views(models, [(64, 96)])
    assert views.config.class_names == names and views.config.category_ids == ids
    assert views.predict(LYING)[0].name(0) in names


REFUSED = {
    "counts": (
        lambda: Views([tiny("htc_r50"), tiny("mask_rcnn_r50", num_classes=4)]),
        r"must have the same classes: model 1 \(htc_r50\) has 3, and model 2 \(mask_rcnn_r50\) has 4",
    ),
    "order": (
        lambda: Views([tiny("htc_r50"), *(tiny("htc_r50", class_names=one) for one in (tuple("abc"), tuple("acb")))]),
        r"in the same order: class 2 is 'b' in model 2 \(htc_r50\), and 'c' in model 3 \(htc_r50\)",
    ),
    "no model": (lambda: Views("weights.pth"), "as htc_fast.load gives them, got 'weights.pth'"),
    "no models": (lambda: Views([]), "at least one detector"),
    "a path": (lambda: Views(["a"]), r"as htc_fast.load gives them, got 'a' \(str\)"),
    "no sizes": (lambda: Views(tiny("htc_r50"), []), "sizes must hold at least one"),
    "a size": (lambda: Views(tiny("htc_r50"), [(800, 600)]), "a view's size takes two sides of 32 to 65536 pixels"),
    "one number": (lambda: Views(tiny("htc_r50"), 800), r"a view's size takes two sides .* got 800 \(int\)"),
    "one size": (lambda: Views(tiny("htc_r50"), (800, 1200)), r"a view's size takes two sides .* got 800 \(int\)"),
    "devices": (lambda: Views([tiny("htc_r50"), tiny("htc_r50").to("meta")]), "on different devices: move them"),
    "two sizes": (lambda: Views(tiny("htc_r50")).predict(LYING, size=(64, 96)), "have sizes of their own: leave size"),
}  # fmt: skip


@pytest.mark.parametrize("call, sentence", REFUSED.values(), ids=REFUSED)
def test_refused(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
