"""Losses of every kind of detector against the definition, written out image by image."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast.criterion.losses import losses
from htc_fast.models.structures import Targets
from tests.models.test_family import SIZES, STRIDES, anchors, box_head, decode, pool, semantic_map
from tests.models.test_zoo import tiny

VARIANTS = {
    "htc": ("htc_r50", {}),
    "parallel cascade": ("cascade_mask_r50", {}),
    "interleaved cascade": ("cascade_mask_r50_interleaved", {}),
    "one regression per class, interleaved": ("mask_rcnn_r50_interleaved", {}),
    "one regression per class, parallel": ("mask_rcnn_r50", {}),
    "semantics for boxes": ("cascade_mask_r50_sem_bbox", {}),
    "other weights, no low quality": (
        "htc_r50",
        {"loss_weight": (0.7, 0.3, 2.0), "semantic_loss_weight": 3.0, "low_quality_match": False},
    ),
    "anchors outside too": ("mask_rcnn_r50", {"rpn_allowed_border": 4.0}),
}
GT = [2, 0, 3]  # objects per image


def targets():
    generator = torch.Generator().manual_seed(3)
    boxes, labels = torch.zeros(3, 4, 4), torch.full((3, 4), -1)
    masks = torch.zeros(3, 4, 64, 96, dtype=torch.uint8)
    for n, (height, width) in enumerate(SIZES.tolist()):
        for g in range(GT[n]):
            a, b = (torch.rand(2, generator=generator) * torch.tensor([width * 0.5, height * 0.5]) for _ in range(2))
            boxes[n, g] = torch.cat([a, torch.minimum(a + b + 8, torch.tensor([width, height]))])
            labels[n, g] = int(torch.randint(3, (), generator=generator))
            x1, y1, x2, y2 = boxes[n, g].long().tolist()
            masks[n, g, y1:y2, x1:x2] = (torch.rand(y2 - y1, x2 - x1, generator=generator) < 0.8).byte()
    semantic = torch.randint(0, 5, (3, 8, 12), generator=generator)
    semantic[:, 6:] = 255
    return Targets(boxes, labels, masks, semantic)


def priority(assigned, generator=None):
    """Fixed "random" numbers; a candidate's place among those that take part counts, wherever padding lies."""
    place = (assigned != -2).cumsum(-1).double()
    return torch.sin(place * 12.9898).mul(43758.5453).frac().abs()


def assign(boxes, truth, positive, negative, low):
    """Index of the object, -1 for background, -2 for neither."""
    if len(truth) == 0:
        return torch.full((len(boxes),), -1)
    iou = torchvision.ops.box_iou(boxes, truth)
    out = []
    for row in iou:
        best = int(row.argmax())
        out.append(best if row[best] >= positive else -1 if row[best] < negative else -2)
    if low is not None and len(boxes):
        for g in range(len(truth)):
            top = iou[:, g].max()
            if top >= low:
                for k in (iou[:, g] == top).nonzero()[:, 0].tolist():
                    out[k] = g
    return torch.tensor(out, dtype=torch.int64)


def draw(assigned, count, fraction):
    """Positives, then negatives, as indices."""
    ranked = priority(assigned).argsort(descending=True)
    positives = [k for k in ranked.tolist() if assigned[k] >= 0][: int(count * fraction)]
    negatives = [k for k in ranked.tolist() if assigned[k] == -1][: count - len(positives)]
    return positives, negatives


def encode(boxes, goal, std):
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    centre, own = (goal[:, :2] + goal[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    shift = (centre - own) / torch.stack([w, h], 1)
    size = torch.log((goal[:, 2:] - goal[:, :2]) / torch.stack([w, h], 1))
    return torch.cat([shift, size], 1) / torch.tensor(std)


def smooth(x, goal, beta):
    return F.smooth_l1_loss(x, goal, beta=beta, reduction="sum")


def add(terms, name, total, count):
    old = terms.get(name, (0.0, 0))
    terms[name] = (old[0] + total, old[1] + count)


def rpn_terms(model, features, n, size, truth, terms):
    config = model.config.rpn
    scores, deltas, places = [], [], []
    for one, stride in zip(features, STRIDES):
        hidden = F.relu(model.rpn.conv(one[n : n + 1]))
        scores.append(model.rpn.objectness(hidden)[0].permute(1, 2, 0).flatten())
        deltas.append(model.rpn.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4))
        places.append(anchors(*one.shape[2:], stride))
    scores, deltas, places = torch.cat(scores), torch.cat(deltas), torch.cat(places)
    edge, (height, width) = config.allowed_border, size
    inside = (places[:, :2] >= -edge).all(1) & (places[:, 2] < width + edge) & (places[:, 3] < height + edge)
    assigned = torch.full((len(places),), -2)
    assigned[inside] = assign(places[inside], truth, 0.7, 0.3, 0.3)
    positives, negatives = draw(assigned, config.samples, 0.5)
    drawn = positives + negatives
    label = torch.zeros(len(drawn))
    label[: len(positives)] = 1
    error = F.binary_cross_entropy_with_logits(scores[drawn], label, reduction="sum")
    add(terms, "rpn_class", error, len(drawn))
    if positives:
        goal = encode(places[positives], truth[assigned[positives]], (1, 1, 1, 1))
        add(terms, "rpn_box", smooth(deltas[positives], goal, 1 / 9), 0)
    add(terms, "rpn_box", 0.0, len(drawn))


def sample(config, t, candidates, truth, slots):
    """Boxes drawn, objects of the positives, which were added; `slots` ground truths are in front, padded."""
    iou = config.stages.match_iou[t]
    assigned = assign(candidates, truth, iou, iou, iou if config.low_quality_match else None)
    padding = torch.full((slots - len(truth),), -2)
    assigned = torch.cat([torch.arange(len(truth)), padding, assigned])
    boxes = torch.cat([truth, torch.zeros(slots - len(truth), 4), candidates])
    positives, negatives = draw(assigned, config.samples, config.positive_fraction)
    drawn = positives + negatives
    return boxes[drawn], assigned[positives], torch.tensor([k < slots for k in drawn], dtype=torch.bool)


def mask_error(model, t, features, n, boxes, objects, given, semantic):
    config = model.config
    x = pool(config, features, n, boxes, 14, semantic if config.semantic in ("mask", "both") else None)
    here = x
    for s in range(t + 1) if config.information_flow else [t]:
        head = model.mask_heads[s]
        here = x + F.relu(head.flow(here)) if config.information_flow and s > 0 else x
        for conv in head.convs:
            here = F.relu(conv(here))
    logits = model.mask_heads[t].logits(F.relu(model.mask_heads[t].upsample(here)))
    logits = logits[torch.arange(len(objects)), given.labels[n][objects]]
    rois = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
    goal = torchvision.ops.roi_align(given.masks[n][objects][:, None].float(), rois, 28, 1.0, -1, True)[:, 0] >= 0.5
    return F.binary_cross_entropy_with_logits(logits, goal.float(), reduction="sum")


def define(model, images, given):
    config, terms = model.config, {}
    features = model.extract(images)
    semantic = semantic_map(model, features)
    with torch.no_grad():
        scores, deltas = model.rpn(features)
        limits = config.rpn.train_proposals_per_level, config.rpn.train_proposals
        pools, _, valid = model.rpn.propose((scores, deltas), SIZES, *limits)
    slots = given.labels.shape[1]
    pools = [(one, own) for one, own in zip(pools, valid)]
    for n in range(3):
        size, count = tuple(SIZES[n].tolist()), GT[n]
        truth, labels = given.boxes[n, :count], given.labels[n, :count]
        rpn_terms(model, features, n, size, truth, terms)
        candidates, real = pools[n]
        for t, weight in zip(range(len(config.stages.match_iou)), config.stages.loss_weight):
            std = config.stages.delta_std[t]
            boxes, objects, added = sample(config, t, candidates[real], truth, slots)
            for_boxes = semantic if config.semantic in ("box", "both") else None
            logits, moves = box_head(model.box_heads[t], pool(config, features, n, boxes, 7, for_boxes))
            goal = torch.full((len(boxes),), config.num_classes)
            goal[: len(objects)] = labels[objects]
            add(terms, f"stage{t + 1}_class", weight * F.cross_entropy(logits, goal, reduction="sum"), len(boxes))
            own = torch.where(goal < config.num_classes, goal, logits[:, :-1].argmax(1))
            if not config.class_agnostic:
                moves = moves.view(len(boxes), -1, 4)[torch.arange(len(boxes)), own]
            k = len(objects)
            error = smooth(moves[:k], encode(boxes[:k], truth[objects], std), 1.0) if k else 0.0
            add(terms, f"stage{t + 1}_box", weight * error, len(boxes))
            refined = decode(moves, boxes, std, size).detach()[~added]
            if config.interleaved:
                boxes, objects, _ = sample(config, t, refined, truth, slots)
            k = len(objects)
            error = mask_error(model, t, features, n, boxes[:k], objects, given, semantic) if k else 0.0
            add(terms, f"stage{t + 1}_mask", weight * error, k * 28**2)
            candidates, real = refined, torch.ones(len(refined), dtype=torch.bool)
    out = {name: total / max(count, 1) for name, (total, count) in terms.items()}
    if model.semantic_head is not None:
        head, x = model.semantic_head, model.semantic_head.merge(features)
        for conv in head.convs:
            x = F.relu(conv(x))
        error = F.cross_entropy(head.logits(x), given.semantic, ignore_index=255, reduction="sum")
        out["semantic"] = config.semantic_loss_weight * error / given.semantic.numel()
    return out


@pytest.mark.parametrize("name, options", VARIANTS.values(), ids=VARIANTS.keys())
def test_losses_are_the_definition(name, options):
    model = tiny(name, samples=24, rpn_samples=64, rpn_train_proposals=60, frozen_stages=0, **options).train()
    torch.manual_seed(5)
    for head in (*model.box_heads, *model.mask_heads):
        for parameter in head.parameters():
            parameter.data += torch.randn_like(parameter) * 0.02
    images = torch.randn(3, 3, 64, 96)
    given = targets()
    got = losses(model, images, SIZES, given, priority)
    want = define(model, images, given)
    assert got.keys() == want.keys()
    for key, value in want.items():
        torch.testing.assert_close(got[key], torch.as_tensor(value), rtol=1e-4, atol=1e-6)
    parameters = [one for one in model.parameters() if one.requires_grad]
    ours = torch.autograd.grad(sum(got.values()), parameters, allow_unused=True)
    theirs = torch.autograd.grad(sum(want.values()), parameters, allow_unused=True)
    for one, other in zip(ours, theirs):
        if one is None or other is None:
            assert (one if one is not None else other if other is not None else torch.zeros(1)).abs().sum() == 0
        else:
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-3 * other.abs().max().item() + 1e-6)
