"""The training step of Hybrid Task Cascade: every loss term from images and ground truth.

Shapes never depend on the data and nothing waits for the device: samples are padded and weigh nothing, and
every term is a sum and a count, divided at the end. With several processes the counts are those of the joint
batch, so that averaging gradients over the processes gives the joint batch's gradient.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast import ops
from htc_fast.criterion.box_losses import box_losses
from htc_fast.criterion.context import context_loss
from htc_fast.criterion.matching import IGNORED, match
from htc_fast.criterion.rpn import rpn_losses
from htc_fast.criterion.sampling import Sample, Sampler, random_sampler, sample
from htc_fast.criterion.targets import check_targets
from htc_fast.criterion.terms import Term, divide
from htc_fast.models.config import Model
from htc_fast.models.geometry import to_rois
from htc_fast.models.guided_rpn import GuidedRPN
from htc_fast.models.htc import HTC
from htc_fast.models.structures import UNLABELLED, Targets, trim
from htc_fast.ops._shared_maps import shared_maps
from htc_fast.ranges import part

MASK_SIZE = 28


@dataclass
class Pool:
    """Candidates of one stage: boxes [N, R, 4] and which are real [N, R]."""

    boxes: Tensor
    valid: Tensor


def losses(
    model: HTC,
    images: Tensor,
    image_sizes: Tensor,
    targets: Targets,
    sampler: Sampler = random_sampler,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """All loss terms of one step, already weighted; their sum is the loss.

    images       [N, 3, H, W]  normalised, zero-padded to a multiple of 32
    image_sizes  [N, 2]        height, width before padding
    targets      ground truth, padded; labels are -1 where padded
    sampler      who is drawn: called once for the RPN (guided: for shapes first), then per stage for boxes and
                 (interleaved) for masks
    generator    of the images' device, for the sampler
    returns      rpn_class, rpn_box, semantic, stage{t}_class, stage{t}_box, stage{t}_mask -> scalars; of guided
                 anchors rpn_location and rpn_shape, of Seesaw Loss stage{t}_objectness, too, and of SCNet
                 global_context, and mask for all stages
    raises       TypeError, ValueError for other images or targets, or a semantic branch without a semantic map
    source       HTC sections 3.1-3.3; execution order of mmdetection, interleaved or parallel as configured
    """
    config = model.config
    model.check(images, image_sizes)
    targets = check_targets(config, images, targets)
    features = model.extract(images)
    semantic, semantic_logits = model.semantic(features)
    candidates = model.rpn(features)
    terms = rpn_losses(model.rpn, candidates, image_sizes, targets, sampler, generator)
    if semantic_logits is not None:
        assert targets.semantic is not None  # as check_targets asks
        terms["semantic"] = semantic_loss(semantic_logits, targets.semantic, config.semantic_loss_weight)
    context, context_logits = model.context(features)
    if context_logits is not None:
        terms["global_context"] = context_loss(context_logits, targets.labels, config.global_context_loss_weight)
    pool = propose(model, candidates, image_sizes)
    *features, semantic = shared_maps([*features, semantic])
    for t in range(len(config.stages.match_iou)):
        boxes, drawn = draw_rois(config, t, pool, targets, sampler, generator)
        head: Any = model.box_heads[t]
        with part(f"box stage {t + 1}"):
            hidden = model.box_hidden(t, features, semantic, boxes, drawn.valid, context)
            class_logits, box_deltas = (one.unflatten(0, boxes.shape[:2]) for one in head.predict(hidden))
        terms.update(box_losses(model, t, class_logits, box_deltas, boxes, drawn, targets))
        pool = refine(model, t, boxes, class_logits, box_deltas, drawn, targets, image_sizes)
        if config.interleaved:
            boxes, drawn = draw_rois(config, t, pool, targets, sampler, generator)
        if not config.sample_consistency:
            terms[f"stage{t + 1}_mask"] = mask_loss(model, t, features, semantic, boxes, drawn, targets, context)
    if config.sample_consistency:
        # The last stage's samples, and what its box head made of them.
        terms["mask"] = mask_loss(model, 0, features, semantic, boxes, drawn, targets, context, hidden)
    return divide(terms)


def semantic_loss(logits: Tensor, target: Tensor, weight: float) -> Term:
    """Cross-entropy over the stride-8 map, divided by all pixels, unlabelled ones (255) included.

    logits  [N, C, h, w];  target  [N, h, w] int64
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=UNLABELLED, reduction="sum")
    return Term(weight * total, torch.full((), target.numel(), device=logits.device))


@torch.no_grad()
def propose(model: HTC, outputs: Any, image_sizes: Tensor) -> Pool:
    """The proposals of the RPN's outputs as the first pool; those of guided anchors from every place."""
    rpn, config = model.rpn, model.config.rpn
    found = partial(rpn.propose, least_location=0.0) if isinstance(rpn, GuidedRPN) else rpn.propose
    with part("proposals"):
        boxes, _, valid = found(outputs, image_sizes, config.train_proposals_per_level, config.train_proposals)
    return Pool(boxes, valid)


@torch.no_grad()
def draw_rois(
    config: Model, t: int, pool: Pool, targets: Targets, sampler: Sampler, generator: torch.Generator | None
) -> tuple[Tensor, Sample]:
    """Match the pool at stage t's IoU, put the ground truth in front, and sample.

    returns  boxes [N, S, 4] and the Sample, whose index counts ground truth first (below G)
    """
    iou = config.stages.match_iou[t]
    gt_valid = targets.labels >= 0
    low_quality = iou if config.low_quality_match else None
    assigned = match(pool.boxes, pool.valid, targets.boxes, gt_valid, iou, iou, low_quality)
    own = torch.arange(gt_valid.shape[1], device=assigned.device).expand_as(gt_valid)
    assigned = torch.cat([torch.where(gt_valid, own, IGNORED), assigned], dim=1)
    drawn = sample(assigned, sampler(assigned, generator), config.samples, config.positive_fraction)
    return drawn.take(torch.cat([targets.boxes, pool.boxes], dim=1)), drawn


@torch.no_grad()
def refine(
    model: HTC,
    t: int,
    boxes: Tensor,
    class_logits: Tensor,
    deltas: Tensor,
    drawn: Sample,
    targets: Targets,
    image_sizes: Tensor,
) -> Pool:
    """Regress the sampled boxes; what was added ground truth leaves the pool."""
    gt_labels = targets.labels.gather(1, drawn.gt)
    refined = model.refine(t, boxes, class_logits, deltas, image_sizes, torch.where(drawn.positive, gt_labels, -1))
    return Pool(refined, drawn.valid & (drawn.index >= targets.labels.shape[1]))


def mask_loss(
    model: HTC,
    t: int,
    features: list[Tensor],
    semantic: Tensor | None,
    boxes: Tensor,
    drawn: Sample,
    targets: Targets,
    context: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Term:
    """Binary cross-entropy of the ground-truth class's 28x28 logits of mask head t, mean over the positives' pixels.

    boxes   [N, S, 4], positives first
    hidden  [N * S, box_channels] of the box head, where its features are relayed
    source  HTC; a single mask head weighs as much as all stages' together, as SCNet's in mmdetection
    """
    weights = model.config.stages.loss_weight
    weight = sum(weights[: len(model.box_heads)]) if model.config.sample_consistency else weights[t]
    most = int(model.config.samples * model.config.positive_fraction)
    positive, gt = drawn.positive[:, :most].flatten(), drawn.gt[:, :most]
    labels = targets.labels.gather(1, gt).flatten()
    rois = to_rois(boxes[:, :most]).flatten(0, -2)
    bitmap = (gt + torch.arange(len(gt), device=gt.device)[:, None] * targets.labels.shape[1]).flatten()
    rest = []
    if model.relay is not None and hidden is not None:
        rest = [hidden.unflatten(0, drawn.gt.shape)[:, :most].flatten(0, 1)]
    positive, rois, labels, bitmap, *relayed = trim(_in_blocks(positive), positive, rois, labels, bitmap, *rest)
    given = positive, context, relayed[0] if relayed else None, labels
    logits = model.mask_stage(t, features, semantic, rois, *given)
    goal = mask_goals(targets, rois, bitmap)
    error = F.binary_cross_entropy_with_logits(logits.float(), goal, reduction="none").sum(dim=(1, 2))
    total = weight * torch.where(positive, error, 0.0).sum()
    return Term(total, drawn.positive.sum() * MASK_SIZE**2)


def _in_blocks(positive: Tensor) -> Tensor:
    """Add a few others, which weigh nothing: oneDNN compiles its kernels anew for every number of rows it meets."""
    size = min(max(len(positive) // 8, 1), 16)
    extra = -positive.sum() % size
    return positive | ((~positive).cumsum(0) <= extra) & ~positive


@torch.no_grad()
def mask_goals(targets: Targets, rois: Tensor, bitmap: Tensor) -> Tensor:
    """What the masks of RoIs [K, 5] learn, [K, 28, 28], 0 or 1; bitmap [K]: which of the N * G objects, as below."""
    if targets.numbers is None or targets.layers is None:
        return mask_targets(targets.masks, rois[:, 1:], bitmap)
    layer, number = (one.flatten()[bitmap] for one in (targets.layers, targets.numbers))
    return ops.mask_targets(targets.masks, rois, layer, number, MASK_SIZE)


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, bitmap: Tensor) -> Tensor:
    """Crop each box out of its ground-truth bitmap.

    masks    [N, G, H, W] uint8
    boxes    [K, 4]        pixels of the network input
    bitmap   [K] int64     which of the N * G bitmaps
    returns  [K, 28, 28] float, 0 or 1: RoIAlign (aligned, adaptive) at least one half
    """
    # A copy of the wanted bitmaps, or of all of them: whichever is smaller.
    flat = masks.flatten(0, 1)
    if len(bitmap) < len(flat):
        flat, bitmap = flat[bitmap], torch.arange(len(bitmap), device=bitmap.device)
    rois = torch.cat([bitmap[:, None].to(boxes.dtype), boxes], dim=1)
    crops = ops.roi_align(flat[:, None].ne(0).float(), rois, (MASK_SIZE, MASK_SIZE), 1.0, -1, aligned=True)
    return (crops[:, 0] >= 0.5).float()
