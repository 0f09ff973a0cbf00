"""RF-DETR's instances as run lengths, straight from the queries' logits; rfdetr itself is not needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.integrations import _found


def instances(
    outputs: Mapping[str, Tensor],
    target_sizes: Any,
    num_select: int = 300,
    threshold: float | None = None,
    class_names: Sequence[str] = (),
) -> list[Instances]:
    """What RF-DETR's PostProcess gives, with RLEs for masks; the full masks are never built.

    outputs       "pred_logits" [B, Q, C], "pred_boxes" [B, Q, 4] (cx, cy, w, h, 0 to 1), "pred_masks" [B, Q, h, w]
    target_sizes  [B, 2]  height, width of each picture
    num_select    pairs of query and class that are taken
    threshold     scores at or below it are left out; None: nothing is
    returns       B Instances, best first; as in rfdetr, a mask may have no pixels
    raises        KeyError where outputs lack masks, ValueError where sizes are not B pairs
    source        rfdetr.models.postprocess.PostProcess: its detections, its boxes, its masks' pixels
    """
    logits, masks = outputs["pred_logits"].detach(), outputs["pred_masks"].detach()
    made, corners = [], _corners(outputs["pred_boxes"].detach())
    for index, (height, width) in enumerate(_found.pairs(target_sizes, len(logits))):
        flat = logits[index].flatten()
        order = flat.argsort(descending=True, stable=True)[:num_select]
        scores, queries, labels = flat[order].sigmoid(), order // logits.shape[2], order % logits.shape[2]
        if threshold is not None:
            kept = scores > threshold
            scores, queries, labels = scores[kept], queries[kept], labels[kept]
        limits = corners.new_tensor([width, height, width, height])
        boxes = (corners[index, queries] * limits).clamp(min=0).minimum(limits)
        rles = _found.once(masks[index], queries, lambda some, size=(height, width): ops.encode_logits(some, size))
        made.append(_found.instances(scores, labels, rles, (height, width), boxes, class_names, empty=True))
    return made


def _corners(boxes: Tensor) -> Tensor:
    """cx, cy, w, h -> x1, y1, x2, y2."""
    centre, half = boxes[..., :2], boxes[..., 2:].clamp(min=0) * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)
