"""Every kind of detector of the family against the definition, image by image with torchvision's operators."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from tests.models.test_zoo import tiny

SIZES = torch.tensor([[60, 90], [64, 96], [40, 41]])
STRIDES = (4, 8, 16, 32, 64)
VARIANTS = {
    "htc": ("htc_r50", {}),
    "stage 2 alone": ("htc_r50", {"test_stage": 2}),
    "no semantics": ("htc_r50_nosem", {}),
    "parallel cascade": ("cascade_mask_r50", {}),
    "semantics for boxes": ("cascade_mask_r50_sem_bbox", {}),
    "semantics for masks": ("cascade_mask_r50_sem_mask", {}),
    "semantic loss only": ("cascade_mask_r50_sem_none", {}),
    "one regression per class": ("mask_rcnn_r50", {}),
    "one regression per class, cascade": ("cascade_mask_r50", {"class_agnostic": False}),
    "stage 1 alone": ("cascade_mask_r50_interleaved", {"test_stage": 1}),
    "probabilities averaged": ("cascade_mask_r50", {"score_average": "probabilities"}),
    "legacy RoIAlign": ("htc_r50", {"roi_aligned": False, "roi_samples": 2}),
}


def decode(deltas, boxes, std, size):
    """deltas, boxes [n, 4], clipped to size (height, width)."""
    dx, dy, dw, dh = (deltas * torch.tensor(std)).unbind(1)
    limit = abs(math.log(16 / 1000))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + width / 2 + width * dx, boxes[:, 1] + height / 2 + height * dy
    w, h = width * dw.clamp(-limit, limit).exp(), height * dh.clamp(-limit, limit).exp()
    out = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
    return torchvision.ops.clip_boxes_to_image(out, size)


def anchors(height, width, stride):
    rows = []
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                rows.append([x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2])
    return torch.tensor(rows)


def proposals(model: HTC, features, n, size):
    config, boxes, scores, levels = model.config.rpn, [], [], []
    for level, (one, stride) in enumerate(zip(features, STRIDES)):
        hidden = F.relu(model.rpn.conv(one[n : n + 1]))
        score = model.rpn.objectness(hidden)[0].permute(1, 2, 0).flatten().sigmoid()
        deltas = model.rpn.deltas(hidden)[0].permute(1, 2, 0).reshape(-1, 4)
        best = score.sort(descending=True, stable=True).indices[: config.proposals_per_level]
        boxes.append(decode(deltas[best], anchors(*one.shape[2:], stride)[best], (1, 1, 1, 1), size))
        scores.append(score[best])
        levels.append(torch.full_like(best, level))
    boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, levels = boxes[real], scores[real], levels[real]
    kept = [levels.eq(k).nonzero()[:, 0] for k in range(5)]
    kept = torch.cat([own[torchvision.ops.nms(boxes[own], scores[own], 0.7)] for own in kept])
    return boxes[kept[scores[kept].sort(descending=True, stable=True).indices]][: config.proposals]


def pool(config: Model, features, n, boxes, grid, semantic):
    """[R, C, grid, grid] of image n; semantic: the map S or None."""
    aligned, samples = config.roi_aligned, config.roi_samples
    out = []
    for box in boxes:
        side = math.sqrt(max(float((box[2] - box[0]) * (box[3] - box[1])), 0))
        level = min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3)
        args = (torch.cat([torch.tensor([float(n)]), box])[None], grid, 1 / STRIDES[level], samples or -1, aligned)
        one = torchvision.ops.roi_align(features[level], *args)
        if semantic is not None:
            whole = torchvision.ops.roi_align(semantic, args[0], 14, 1 / 8, samples or -1, aligned)
            one = one + F.adaptive_avg_pool2d(whole, grid)
        out.append(one)
    return torch.cat(out)


def semantic_map(model: HTC, features):
    head = model.semantic_head
    if head is None:
        return None
    size = features[1].shape[2:]
    x = 0
    for one, lateral in zip(features, head.lateral):
        x = x + F.relu(lateral(F.interpolate(one, size, mode="bilinear", align_corners=True)))
    for conv in head.convs:
        x = F.relu(conv(x))
    return F.relu(head.embedding(x))


def box_head(head, x):
    x = F.relu(head.fc2(F.relu(head.fc1(x.flatten(1)))))
    return head.classes(x), head.deltas(x)


def mask_probabilities(model: HTC, features, n, boxes, labels, semantic):
    config = model.config
    x = pool(config, features, n, boxes, 14, semantic if config.semantic in ("mask", "both") else None)
    found, previous = [], None
    for head in model.mask_heads[: config.test_stage or len(model.mask_heads)]:
        here = x if previous is None or not config.information_flow else x + F.relu(head.flow(previous))
        for conv in head.convs:
            here = F.relu(conv(here))
        previous = here
        logits = head.logits(F.relu(head.upsample(here)))
        found.append(logits[torch.arange(len(labels)), labels].sigmoid())
    return found[-1] if config.test_stage else torch.stack(found).mean(0)


@torch.no_grad()
def define(model: HTC, images, n):
    """Boxes, scores, labels and masks of image n."""
    config, size = model.config, tuple(SIZES[n].tolist())
    features = model.extract(images)
    semantic = semantic_map(model, features)
    boxes = proposals(model, features, n, size)
    last = (config.test_stage or len(model.box_heads)) - 1
    every = []
    for t in range(last + 1):
        for_boxes = semantic if config.semantic in ("box", "both") else None
        logits, deltas = box_head(model.box_heads[t], pool(config, features, n, boxes, 7, for_boxes))
        every.append(logits)
        if t < last:
            own = logits[:, :-1].argmax(1)
            moved = deltas if config.class_agnostic else deltas.view(len(own), -1, 4)[torch.arange(len(own)), own]
            boxes = decode(moved, boxes, config.stages.delta_std[t], size)
    every = every[-1:] if config.test_stage else every
    if config.score_average == "probabilities":
        scores = torch.stack([one.softmax(1) for one in every]).mean(0)
    else:
        scores = torch.stack(every).mean(0).softmax(1)
    found = []
    for label in range(config.num_classes):
        own = deltas if config.class_agnostic else deltas[:, 4 * label : 4 * label + 4]
        moved = decode(own, boxes, config.stages.delta_std[last], size)
        sure = scores[:, label] > config.score_threshold
        kept = torchvision.ops.nms(moved[sure], scores[sure, label], 0.5)
        found += [(scores[sure, label][k], label, moved[sure][k]) for k in kept]
    found = sorted(found, key=lambda one: -float(one[0]))[: config.detections]
    scores, labels, boxes = (list(one) for one in zip(*found))
    boxes, labels = torch.stack(boxes), torch.tensor(labels)
    return boxes, torch.stack(scores), labels, mask_probabilities(model, features, n, boxes, labels, semantic)


@pytest.mark.parametrize("name, options", VARIANTS.values(), ids=VARIANTS.keys())
def test_detect_is_the_definition(name, options):
    model = tiny(name, detections=20, **options).eval()
    torch.manual_seed(len(name) + len(options))
    for head in (*model.box_heads, *model.mask_heads):
        for parameter in head.parameters():
            parameter.data += torch.randn_like(parameter) * 0.03
    model.rpn.deltas.weight.data *= 5
    images = torch.randn(3, 3, 64, 96)
    for image, (height, width) in zip(images, SIZES):
        image[:, height:], image[:, :, width:] = 0, 0
    found = model.detect(images, SIZES)
    for n in range(3):
        boxes, scores, labels, masks = define(model, images, n)
        count = int(found.count[n])
        assert count == len(boxes) and count > 3
        assert torch.equal(found.labels[n, :count], labels)
        torch.testing.assert_close(found.boxes[n, :count], boxes, rtol=1e-4, atol=2e-3)
        torch.testing.assert_close(found.scores[n, :count], scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.masks[n, :count], masks, rtol=1e-3, atol=1e-4)
