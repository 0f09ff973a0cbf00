"""SCNet's losses against the definition, image by image: one mask loss, of the last stage, and the context's."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast.criterion.context import context_loss
from htc_fast.criterion.losses import losses
from htc_fast.training.report import short_terms
from tests.criterion.test_family_losses import GT, add, encode, priority, rpn_terms, sample, smooth, targets
from tests.models.test_family import SIZES, decode
from tests.models.test_scnet import box_head, context, hidden, mask_logits, pool_of, semantic_map
from tests.models.test_zoo import tiny

ONE = {"sample_consistency": True}
VARIANTS = {
    "scnet": ("scnet_r50", {}),
    "other weights, no semantics": (
        "scnet_r50",
        {"loss_weight": (0.7, 0.3, 2.0, 9.0), "global_context_loss_weight": 0.4, "semantic": "none"},
    ),
    "one mask head of one stage": ("mask_rcnn_r50", {**ONE, "feature_relay": True}),
    "no relay, single convolutions": ("cascade_mask_r50", {**ONE, "global_context": True}),
}


def mask_error(model, features, n, boxes, objects, given, semantic, seen):
    logits = mask_logits(model, features, n, boxes, semantic, seen)[0]
    logits = logits[torch.arange(len(objects)), given.labels[n][objects]]
    rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
    goal = torchvision.ops.roi_align(given.masks[n][objects][:, None].float(), rois, 28, 1.0, -1, True)[:, 0] >= 0.5
    return F.binary_cross_entropy_with_logits(logits, goal.float(), reduction="sum")


def define(model, images, given):
    config, terms, out = model.config, {}, {}
    stages, weights = config.stages, config.stages.loss_weight
    count, slots = len(stages.match_iou), given.labels.shape[1]
    features = model.extract(images)
    semantic = semantic_map(model, features)
    with torch.no_grad():
        limits = config.rpn.train_proposals_per_level, config.rpn.train_proposals
        pools, _, valid = model.rpn.propose(model.rpn(features), SIZES, *limits)
    for n in range(3):
        size, truth, labels = tuple(SIZES[n].tolist()), given.boxes[n, : GT[n]], given.labels[n, : GT[n]]
        rpn_terms(model, features, n, size, truth, terms)
        candidates = pools[n][valid[n]]
        for t in range(count):
            boxes, objects, was_added = sample(config, t, candidates, truth, slots)
            x = pool_of(model, config, features, n, boxes, 7, semantic)
            (logits, moves), k = box_head(model.box_heads[t], x), len(objects)
            goal = torch.full((len(boxes),), config.num_classes)
            goal[:k] = labels[objects]
            add(terms, f"stage{t + 1}_class", weights[t] * F.cross_entropy(logits, goal, reduction="sum"), len(boxes))
            own = torch.where(goal < config.num_classes, goal, logits[:, :-1].argmax(1))
            if not config.class_agnostic:
                moves = moves.view(len(boxes), -1, 4)[torch.arange(len(boxes)), own]
            error = smooth(moves[:k], encode(boxes[:k], truth[objects], stages.delta_std[t]), 1.0) if k else 0.0
            add(terms, f"stage{t + 1}_box", weights[t] * error, len(boxes))
            candidates = decode(moves, boxes, stages.delta_std[t], size).detach()[~was_added]
        # The boxes that the last box head was given, and what it made of them.
        seen = hidden(model.box_heads[-1], x)[:k]
        error = mask_error(model, features, n, boxes[:k], objects, given, semantic, seen) if k else 0.0
        add(terms, "mask", sum(weights[:count]) * error, k * 28**2)
    if model.context_head is not None:
        there = torch.zeros(3, config.num_classes)
        for n in range(3):
            there[n, given.labels[n, : GT[n]].unique()] = 1
        error = F.binary_cross_entropy_with_logits(context(model, features)[1], there)
        out["global_context"] = config.global_context_loss_weight * error
    if semantic is not None:
        logits = semantic_map(model, features, logits=True)
        error = F.cross_entropy(logits, given.semantic, ignore_index=255, reduction="sum") / given.semantic.numel()
        out["semantic"] = config.semantic_loss_weight * error
    return out | {name: total / max(items, 1) for name, (total, items) in terms.items()}


@pytest.mark.parametrize("name, options", VARIANTS.values(), ids=VARIANTS.keys())
def test_losses_are_the_definition(name, options):
    model = tiny(name, samples=24, rpn_samples=64, rpn_train_proposals=60, frozen_stages=0, **options).train()
    torch.manual_seed(5)
    for part in (model.box_heads, model.mask_heads, model.relay, model.context_head):
        for parameter in [] if part is None else part.parameters():
            parameter.data += torch.randn_like(parameter) * 0.02
    images, given = torch.randn(3, 3, 64, 96), targets()
    got, want = losses(model, images, SIZES, given, priority), define(model, images, given)
    assert got.keys() == want.keys() and "stage3_mask" not in got
    for key, value in want.items():
        torch.testing.assert_close(got[key], torch.as_tensor(value), rtol=1e-4, atol=1e-6)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(sum(got.values()), parameters.values(), allow_unused=True)
    theirs = torch.autograd.grad(sum(want.values()), parameters.values(), allow_unused=True)
    for key, one, other in zip(parameters, ours, theirs, strict=True):
        assert (one is None) == (other is None), key
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-3 * other.abs().max().item() + 1e-6)


def test_the_published_weights():
    config = tiny("scnet_r50").config
    assert (config.semantic_loss_weight, config.global_context_loss_weight) == (0.2, 3.0)
    assert config.stages.loss_weight == (1.0, 0.5, 0.25)


def test_what_is_in_the_whole_image():
    logits = torch.tensor([[2.0, 0, -1], [0, 0, 0]])
    labels = torch.tensor([[0, 0, -1, 0], [-1, -1, -1, -1]])  # once, however often it is there; and nothing at all
    term = context_loss(logits, labels, 3.0)
    want = math.log(1 + math.exp(-2)) + math.log(2) + math.log(1 + math.exp(-1)) + 3 * math.log(2)
    assert term.total.item() == pytest.approx(3 * want) and term.count == 6
    low = context_loss(logits.bfloat16(), labels, 3.0)
    assert low.total.dtype == torch.float32 and low.total.item() == pytest.approx(3 * want)


def test_without_objects_there_is_no_mask_and_no_class():
    model, given = tiny("scnet_r50", samples=24).train(), targets()
    given.labels.fill_(-1)
    terms = losses(model, torch.randn(3, 3, 64, 96), SIZES, given, priority)
    sum(terms.values()).backward()
    assert terms["mask"] == 0 and terms["global_context"] > 0
    assert all(
        one.grad is None or not one.grad.any() for part in (model.mask_heads, model.relay) for one in part.parameters()
    )


def test_the_line_of_a_report():
    terms = {"rpn_class": 0.5, "rpn_box": 0.25, "semantic": 1.0, "global_context": 2.0, "mask": 0.75}
    terms |= {f"stage{t}_{kind}": t for t in (1, 2, 3) for kind in ("class", "box")}
    line = "rpn 0.50/0.25 sem 1.00 context 2.00 s1 1.00/1.00 s2 2.00/2.00 s3 3.00/3.00 mask 0.75"
    assert short_terms(terms) == line
    assert short_terms({"rpn_class": 0, "rpn_box": 0, "stage1_class": 1, "stage1_box": 2, "stage1_mask": 3}) == (
        "rpn 0.00/0.00 s1 1.00/2.00/3.00"
    )
