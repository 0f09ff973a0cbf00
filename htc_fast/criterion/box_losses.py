"""What a stage's box head learns: which class a sampled box is of, and how the box has to move."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.criterion.sampling import Sample
from htc_fast.criterion.seesaw import count, seesaw_terms
from htc_fast.criterion.terms import Term, take
from htc_fast.models.geometry import decode_boxes, encode_boxes
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets

EPSILON = 1e-6  # the least area that is divided by, in square pixels


def box_losses(
    model: HTC, t: int, class_logits: Tensor, deltas: Tensor, boxes: Tensor, drawn: Sample, targets: Targets
) -> dict[str, Term]:
    """Stage t's losses of classes and boxes, all divided by the number of samples.

    class_logits  [N, S, C+1], background last; [N, S, C+2] for Seesaw Loss, which has a term of its own for objectness
    deltas        [N, S, 4 | 4C];  boxes  [N, S, 4]
    """
    config, name, samples = model.config, f"stage{t + 1}", drawn.valid.sum()
    weight, gt_labels = config.stages.loss_weight[t], targets.labels.gather(1, drawn.gt)
    if config.class_loss == "seesaw":
        classifier: Any = model.box_heads[t].classes
        if model.training:
            count(classifier, gt_labels, drawn.positive)
        most = int(config.samples * config.positive_fraction)
        classes, objects = seesaw_terms(class_logits, gt_labels, drawn, classifier.counts, most)
        terms = {
            f"{name}_class": Term(weight * classes, samples),
            f"{name}_objectness": Term(weight * objects, samples),
        }
    else:
        terms = {f"{name}_class": Term(weight * _cross_entropy(class_logits, gt_labels, drawn), samples)}
    if deltas.shape[-1] > 4:
        deltas = deltas.unflatten(2, (-1, 4))
        deltas = deltas.gather(2, gt_labels.clamp(min=0)[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    deltas, goal, std = deltas.float(), take(targets.boxes, drawn.gt), config.stages.delta_std[t]
    if config.box_loss == "giou":
        # Padding and background stand still: what a box without an object does must not reach the gradient as NaN.
        moved = decode_boxes(torch.where(drawn.positive[..., None], deltas, 0.0), boxes, std)
        distance = giou_loss(moved, goal)
    else:
        distance = F.smooth_l1_loss(deltas, encode_boxes(boxes, goal, std), reduction="none", beta=1.0).sum(dim=2)
    error = torch.where(drawn.positive, distance, 0.0).sum()
    return terms | {f"{name}_box": Term(weight * config.box_loss_weight * error, samples)}


def _cross_entropy(logits: Tensor, gt_labels: Tensor, drawn: Sample) -> Tensor:
    """Its sum over the samples, of logits [N, S, C+1]."""
    labels = torch.where(drawn.positive, gt_labels, logits.shape[-1] - 1)
    error = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return (error * drawn.valid.flatten()).sum()


def giou_loss(boxes: Tensor, gt: Tensor) -> Tensor:
    """One minus the generalized intersection over union, from 0 to 2, with a gradient where they do not overlap too.

    boxes, gt  [..., 4] in pixels, x1 <= x2 and y1 <= y2;  returns  [...]
    source     Rezatofighi et al., Generalized Intersection over Union, CVPR 2019
    """
    shared = _area(torch.maximum(boxes[..., :2], gt[..., :2]), torch.minimum(boxes[..., 2:], gt[..., 2:]))
    around = _area(torch.minimum(boxes[..., :2], gt[..., :2]), torch.maximum(boxes[..., 2:], gt[..., 2:]))
    union = _area(boxes[..., :2], boxes[..., 2:]) + _area(gt[..., :2], gt[..., 2:]) - shared
    union, around = union.clamp(min=EPSILON), around.clamp(min=EPSILON)
    return 1 - shared / union + (around - union) / around


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """0 where a corner is on the wrong side."""
    width, height = (bottom_right - top_left).clamp(min=0).unbind(dim=-1)
    return width * height
