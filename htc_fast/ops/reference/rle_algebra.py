"""Areas, boxes and merges as pycocotools has them, on RLE dicts."""

from typing import Any

import torch
from torch import Tensor


def measure(rles: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """K dicts -> areas [K] int64, boxes [K, 4] float32 x1, y1, x2, y2."""
    from pycocotools import mask as coco_mask  # here, not above: the operators need torch alone

    areas = torch.tensor([int(coco_mask.area(one)) for one in rles], dtype=torch.int64)
    boxes = torch.tensor([coco_mask.toBbox(one).tolist() for one in rles], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return areas, (boxes * areas.ne(0)[:, None]).float()


def merge(rles: list[dict[str, Any]], intersect: bool) -> dict[str, Any]:
    """K dicts of one size -> one."""
    from pycocotools import mask as coco_mask

    made = coco_mask.merge(rles, intersect)
    return {"size": list(made["size"]), "counts": made["counts"]}
