"""What the region proposal network learns: objectness and deltas of its anchors, and of guided ones the anchors too."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.criterion.guided import inside_image, location_loss, shape_loss
from htc_fast.criterion.matching import anchors_inside, match
from htc_fast.criterion.sampling import Sampler, sample
from htc_fast.criterion.terms import Term, take
from htc_fast.models import config as configs
from htc_fast.models.geometry import encode_boxes
from htc_fast.models.guided_rpn import DELTA_STD, GuidedRPN, Outputs, guided
from htc_fast.models.rpn import RPN
from htc_fast.models.structures import Targets


def rpn_losses(
    rpn: RPN | GuidedRPN,
    outputs: Any,
    image_sizes: Tensor,
    targets: Targets,
    sampler: Sampler,
    generator: torch.Generator | None,
) -> dict[str, Term]:
    """rpn_class and rpn_box; of guided anchors also rpn_location and rpn_shape.

    outputs  of its `forward`
    source   mmdetection's RPN and GA-RPN
    """
    if isinstance(rpn, GuidedRPN):
        return _guided(rpn, outputs, image_sizes, targets, sampler, generator)
    objectness, deltas = outputs
    anchors = torch.cat(rpn.anchors([(level.shape[2], level.shape[3]) for level in objectness], image_sizes.device))
    scores, offsets = _rows(objectness, 1)[..., 0], _rows(deltas, 4)
    inside = anchors_inside(anchors, image_sizes, rpn.config.allowed_border)
    return _box_losses(
        rpn.config, anchors[None], inside, scores, offsets, targets, sampler, generator, (1.0, 1.0, 1.0, 1.0), 1 / 9
    )


def _guided(
    rpn: GuidedRPN,
    outputs: Outputs,
    image_sizes: Tensor,
    targets: Targets,
    sampler: Sampler,
    generator: torch.Generator | None,
) -> dict[str, Term]:
    config, (locations, shapes, objectness, deltas) = rpn.config, outputs
    squares = torch.cat(rpn.squares([(level.shape[2], level.shape[3]) for level in shapes], image_sizes.device))
    logarithms, inside = _rows(shapes, 2), inside_image(rpn, squares, image_sizes)
    location = location_loss(config, locations, targets)
    shape = shape_loss(rpn, squares, logarithms, inside, targets, sampler, generator)
    # Objectness and deltas take the anchors as they are.
    anchors = guided(squares, logarithms.detach())
    if config.allowed_border >= 0:
        inside = inside & anchors_inside(anchors, image_sizes, config.allowed_border)
    scores, offsets = _rows(objectness, 1)[..., 0], _rows(deltas, 4)
    terms = _box_losses(config, anchors, inside, scores, offsets, targets, sampler, generator, DELTA_STD, 1.0)
    return {**terms, "rpn_location": location, "rpn_shape": shape}


def _box_losses(
    config: configs.RPN,
    anchors: Tensor,
    inside: Tensor,
    scores: Tensor,
    offsets: Tensor,
    targets: Targets,
    sampler: Sampler,
    generator: torch.Generator | None,
    std: Sequence[float],
    beta: float,
) -> dict[str, Term]:
    """Binary cross-entropy and SmoothL1, both over all sampled anchors.

    anchors  [1 | N, A, 4];  inside [N, A] bool: which take part
    scores   [N, A];  offsets [N, A, 4], over `std`
    """
    assigned = match(
        anchors,
        inside,
        targets.boxes,
        targets.labels >= 0,
        config.positive_iou,
        config.negative_iou,
        config.low_quality_iou,
    )
    drawn = sample(assigned, sampler(assigned, generator), config.samples, config.positive_fraction)
    positive, count = drawn.positive.float(), drawn.valid.sum()
    error = F.binary_cross_entropy_with_logits(drawn.take(scores).float(), positive, reduction="none")
    own = drawn.take(anchors.expand(len(scores), -1, -1))
    goal = encode_boxes(own, take(targets.boxes, drawn.gt), std)
    distance = F.smooth_l1_loss(drawn.take(offsets).float(), goal, reduction="none", beta=beta).sum(dim=2)
    return {
        "rpn_class": Term((error * drawn.valid).sum(), count),
        "rpn_box": Term(torch.where(drawn.positive, distance, 0.0).sum(), count),
    }


def _rows(levels: list[Tensor], each: int) -> Tensor:
    """Maps [N, A * each, h, w] of all levels -> [N, all anchors, each]: pixel by pixel, anchor by anchor."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, each) for level in levels], dim=1)
