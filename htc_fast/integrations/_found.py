"""What a detector of another library found, as `Instances`: a mask of several classes becomes run lengths once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.errors import short


def pairs(target_sizes: Any, count: int) -> list[tuple[int, int]]:
    """Height and width of each picture of a batch.

    target_sizes  [B, 2] or B pairs
    raises        ValueError where they are not as many as pictures, or no pairs of whole numbers
    """
    given = target_sizes.tolist() if isinstance(target_sizes, Tensor) else [list(one) for one in target_sizes]
    if len(given) != count or any(len(one) != 2 or any(int(side) != side for side in one) for one in given):
        raise ValueError(f"target_sizes must be height, width of each of {count} pictures, got {short(given)}.")
    return [(int(height), int(width)) for height, width in given]


def instances(
    scores: Tensor,
    labels: Tensor,
    rles: list[dict[str, Any]],
    size: tuple[int, int],
    boxes: Tensor | None = None,
    class_names: Sequence[str] = (),
    empty: bool = False,
) -> Instances:
    """Detections of one picture, best first.

    scores, labels  [n]
    rles            n COCO RLE dicts
    boxes           [n, 4] x1, y1, x2, y2 in pixels; None: those around the masks
    empty           whether masks without a pixel stay
    """
    around = boxes if boxes is not None and empty else ops.rle_to_box(rles).reshape(-1, 4)
    order = scores.detach().float().cpu().sort(descending=True, stable=True).indices
    if not empty:
        order = order[around[order, 2] > around[order, 0]]
    boxes = around if boxes is None else boxes.detach().float().cpu()
    chosen = [rles[index] for index in order.tolist()]
    labels = labels.detach().cpu().long()[order]
    return Instances(boxes[order], scores.detach().float().cpu()[order], labels, chosen, size, class_names)


def once(masks: Tensor, chosen: Tensor, encode: Any) -> list[dict[str, Any]]:
    """RLEs of masks[chosen], where one that is chosen several times is encoded once."""
    kept, places = torch.unique(chosen, return_inverse=True)
    rles = encode(masks[kept])
    return [rles[place] for place in places.tolist()]
