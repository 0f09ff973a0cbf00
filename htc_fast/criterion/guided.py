"""What guided anchors learn: where the centres of objects are, and which shape covers the object there."""

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.criterion.matching import anchors_inside, assign
from htc_fast.criterion.sampling import Sampler, sample
from htc_fast.criterion.terms import Term, take
from htc_fast.models import config as configs
from htc_fast.models.geometry import box_iou
from htc_fast.models.guided_rpn import GuidedRPN, guided
from htc_fast.models.rpn import STRIDES
from htc_fast.models.structures import Targets

CENTRE, AROUND = 0.2, 0.5  # shares of an object's sides: places to be found in, and to be left alone in
NEGATIVE_WEIGHT = 0.1
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
LOCATIONS = 200  # places that count as one in its mean
BETA, EPSILON = 0.2, 1e-3  # of the bounded IoU loss


def location_loss(config: configs.RPN, logits: list[Tensor], targets: Targets) -> Term:
    """Focal loss over the places of all levels, divided by a two hundredth of their number, padding included.

    logits  per level [N, 1, h, w]
    """
    sizes = [(level.shape[2], level.shape[3]) for level in logits]
    wanted = location_targets(targets.boxes, targets.labels >= 0, sizes, config.anchor_scale * STRIDES[0])
    total = logits[0].new_zeros((), dtype=torch.float32)
    for level, (positive, weight) in zip(logits, wanted, strict=True):
        level = level[:, 0].float()
        # The probability of the wrong answer, and how much is lost by the right one's.
        wrong = torch.where(positive, -level, level)
        share = torch.where(positive, ALPHA, 1 - ALPHA)
        total = total + (weight * share * wrong.sigmoid() ** GAMMA * F.softplus(wrong)).sum()
    places = sum(level.numel() for level in logits)
    return Term(LOCATIONS * total, torch.full((), places, device=logits[0].device))


@torch.no_grad()
def location_targets(
    boxes: Tensor, valid: Tensor, sizes: list[tuple[int, int]], smallest: float
) -> list[tuple[Tensor, Tensor]]:
    """Where the centres of objects are to be found.

    An object belongs to the level whose square has about its size. There, its central part is positive and the region
    around that ignored, as that region is on both neighbouring levels; of several objects the last decides.

    boxes     [N, G, 4], G at least 1;  valid [N, G] bool
    sizes     (h, w) per level
    smallest  side of the first level's square, in pixels
    returns   per level positive [N, h, w] bool and weight [N, h, w]: 1 there, 0 where ignored, 0.1 elsewhere
    source    guided anchoring, section 3.5, as mmdetection rounds
    """
    side = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2).sqrt()
    level = (side.log2() - math.log2(smallest) + 0.5).floor().clamp(0, len(sizes) - 1)
    order = torch.arange(2, 2 * boxes.shape[1] + 2, 2, device=boxes.device, dtype=torch.int32)[None, :, None]
    found = []
    for number, ((height, width), stride) in enumerate(zip(sizes, STRIDES, strict=True)):
        own = (valid & (level == number))[..., None]
        beside = (valid & ((level - number).abs() == 1))[..., None]
        lines = []  # of each object, per row and per column
        for axis, length in ((1, height), (0, width)):
            low, high = boxes[..., axis] / stride, boxes[..., axis + 2] / stride
            centre, around = (_covered(low, high, share, length) for share in (CENTRE, AROUND))
            # Even for around, and one more for the centre; later objects have more.
            lines.append((torch.where(around & own, order + centre, 0), around & beside))
        (rows, near_rows), (columns, near_columns) = lines
        last = torch.minimum(rows[..., None], columns[:, :, None]).amax(dim=1)
        near = (near_rows[..., None] & near_columns[:, :, None]).any(dim=1)
        positive = last % 2 == 1
        weight = torch.where((last > 0) | near, 0.0, NEGATIVE_WEIGHT).masked_fill(positive, 1.0)
        found.append((positive, weight))
    return found


def _covered(low: Tensor, high: Tensor, share: float, length: int) -> Tensor:
    """Which of `length` pixels lie within the central share of each interval low, high [N, G]: [N, G, length] bool."""
    cut = (1 - share) / 2
    first = ((1 - cut) * low + cut * high).round()[..., None]
    last = (cut * low + (1 - cut) * high).round()[..., None]
    pixel = torch.arange(length, device=low.device)
    return (pixel >= first) & (pixel <= last)


def inside_image(rpn: GuidedRPN, squares: Tensor, image_sizes: Tensor) -> Tensor:
    """Places of squares [A, 4] of whose approximations any may be trained on, as `anchors_inside` says: [N, A] bool."""
    border = rpn.config.allowed_border
    if border < 0:
        return anchors_inside(squares, image_sizes, border)
    some = [anchors_inside(one, image_sizes, border) for one in rpn.approximations(squares)]
    return torch.stack(some).any(dim=0)


def shape_loss(
    rpn: GuidedRPN,
    squares: Tensor,
    shapes: Tensor,
    inside: Tensor,
    targets: Targets,
    sampler: Sampler,
    generator: torch.Generator | None,
) -> Term:
    """Bounded IoU loss of the sampled positives' guided anchors and their objects, divided by all samples.

    squares  [A, 4];  shapes [N, A, 2] as predicted;  inside [N, A] bool
    """
    config = rpn.config
    assigned = _match_shapes(rpn, squares, inside, targets)
    drawn = sample(assigned, sampler(assigned, generator), config.samples, config.positive_fraction)
    anchors = guided(squares[drawn.index], drawn.take(shapes))
    distance = bounded_iou_loss(anchors, take(targets.boxes, drawn.gt))
    return Term(torch.where(drawn.positive, distance, 0.0).sum(), drawn.valid.sum())


@torch.no_grad()
def _match_shapes(rpn: GuidedRPN, squares: Tensor, inside: Tensor, targets: Targets) -> Tensor:
    """As `match`, by the best IoU that any approximation of a place has: [N, A]."""
    config = rpn.config
    approximations = list(rpn.approximations(squares))

    def best(some: slice) -> Tensor:
        # One after the other: together they would be nine times as large.
        return reduce(torch.maximum, (box_iou(one[None, some], targets.boxes) for one in approximations))

    limits = config.positive_iou, config.negative_iou, config.low_quality_iou
    return assign(best, inside, targets.labels >= 0, *limits)


def bounded_iou_loss(boxes: Tensor, gt: Tensor) -> Tensor:
    """For centre and sides, one after the other, one minus the best IoU that the others could leave; smooth at 0.

    boxes, gt  [..., 4];  returns [...], the sum of the four
    source     Tychsen-Smith and Petersson, Improving Object Localization with Fitness NMS and Bounded IoU Loss
    """
    size, gt_size = boxes[..., 2:] - boxes[..., :2], gt[..., 2:] - gt[..., :2]
    off = (gt[..., :2] + gt[..., 2:] - boxes[..., :2] - boxes[..., 2:]).abs()  # twice the centre's
    centre = 1 - ((gt_size - off) / (gt_size + off + EPSILON)).clamp(min=0)
    sides = 1 - torch.minimum(gt_size / (size + EPSILON), size / (gt_size + EPSILON))
    lost = torch.cat([centre, sides], dim=-1)
    return torch.where(lost < BETA, 0.5 * lost**2 / BETA, lost - 0.5 * BETA).sum(dim=-1)
