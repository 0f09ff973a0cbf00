"""A data set's truth and a model's predictions as packed arrays."""

from collections.abc import Sequence

import numpy as np
import torch

from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.data.masks import to_rle
from htc_fast.evaluation.mask_texts import masks_of
from htc_fast.evaluation.objects import Found, Truth


def truth_of(dataset: CocoDataset, indices: Sequence[int]) -> Truth:
    """The instances of some pictures, crowds among them; a mask without an area of its own has its pixels."""
    images, labels, boxes, areas, crowd, rles, sizes = [], [], [], [], [], [], []
    for number, index in enumerate(indices):
        picture = dataset.picture(index)
        for item in picture.annotations:
            images.append(number)
            labels.append(item.label)
            boxes.append(item.box)
            areas.append(np.nan if item.area is None else item.area)
            crowd.append(item.crowd)
            rles.append(to_rle(item.segmentation, picture.height, picture.width))
            sizes.append((picture.height, picture.width))
    masks = masks_of(rles, np.array(sizes, dtype=np.int64).reshape(-1, 2), lambda n: f"instance {n} of the truth")
    given, crowds = np.array(areas, dtype=np.float64), np.array(crowd, dtype=np.uint8)
    return Truth(
        np.array(images, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.where(np.isnan(given), masks.pixels, given),
        _sides(np.array(boxes, dtype=np.float64)),
        masks,
        crowds,
        crowds,
    )


def found_of(found: dict[int, Instances], indices: Sequence[int]) -> Found:
    """Predictions for pictures, in the order of their indices; areas are those of the masks."""
    parts = [found[index] for index in indices]
    counts = [len(one) for one in parts]
    sizes = np.repeat(np.array([one.size for one in parts], dtype=np.int64).reshape(-1, 2), counts, axis=0)
    masks = masks_of([rle for one in parts for rle in one.rle], sizes, lambda n: f"prediction {n}")
    return Found(
        np.repeat(np.arange(len(parts)), counts),
        _joined([one.labels.long() for one in parts]),
        masks.pixels,
        _sides(_joined([one.boxes.double() for one in parts])),
        masks,
        _joined([one.scores.double() for one in parts]),
    )


def _joined(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy() if parts else np.empty(0)


def _sides(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 -> x, y, w, h."""
    boxes = boxes.reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
