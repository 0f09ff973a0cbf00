"""Masks of a sample in either of their forms, asked and changed alike.

rows    `masks` uint8 [G, H, W]: one map per instance
layers  `masks` int16 or int32 [L, H, W] and `numbers` int64 [G]: instance g is where a layer holds numbers[g]; 0 is
        none. Its pixels lie in one layer, and no number belongs to two. The key `numbers` tells that a sample has
        this form
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from htc_fast.data import runs

if TYPE_CHECKING:
    from htc_fast.ops._layers import Measures


def visible_area(sample: dict) -> Tensor:
    """Pixels of each instance, int64 [G]."""
    return torch.from_numpy(_areas(_array(sample["masks"]), _numbers(sample)))


def extents(sample: dict, which: Tensor | None = None) -> Tensor:
    """Smallest boxes around instances, float32 [G, 4] in whole pixels; zeros for one without a pixel.

    which  [G] bool, those asked for; None: all
    """
    masks, numbers = _array(sample["masks"]), _numbers(sample)
    if numbers is None:
        masks = masks if which is None else masks[which.numpy()]
        columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)
        sides = [side for x in (columns, rows) for side in (x.argmax(axis=1), x.shape[1] - x[:, ::-1].argmax(axis=1))]
        found = np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1) * rows.any(axis=1, keepdims=True)
    else:
        found = _measured(masks, numbers).boxes.numpy()[numbers if which is None else numbers[which.numpy()]]
    return torch.from_numpy(found.astype(np.float32))


def layer_of(sample: dict) -> Tensor:
    """In which layer each instance lies, int64 [G]; 0 for one without a pixel."""
    masks, numbers = _array(sample["masks"]), sample["numbers"].numpy()
    return torch.from_numpy(_measured(masks, numbers).layers.numpy()[numbers])


def bitmap(sample: dict, row: int) -> Tensor:
    """One instance's pixels, bool [H, W]."""
    masks = sample["masks"].as_subclass(Tensor)
    return (masks == sample["numbers"][row]).any(dim=0) if "numbers" in sample else masks[row].bool()


def covered(sample: dict) -> Tensor:
    """Where any instance lies, bool [H, W]."""
    return torch.from_numpy(_array(sample["masks"]).any(axis=0))


def owners(sample: dict) -> Tensor:
    """The smallest instance at each pixel, of equal ones the later, as its row: int64 [H, W], -1 where none is."""
    masks, numbers = _array(sample["masks"]), _numbers(sample)
    order = np.argsort(-_areas(masks, numbers), kind="stable")
    if numbers is None:
        found = np.full(masks.shape[1:], -1, dtype=np.int64)
        for row in order:
            found[masks[row] > 0] = row
        return torch.from_numpy(found)
    ranks = np.zeros(_length(masks, numbers), dtype=np.int32)
    ranks[numbers[order]] = np.arange(1, len(order) + 1)
    highest = ranks.take(masks, mode="clip").max(axis=0, initial=0)
    return torch.from_numpy(np.concatenate([[-1], order]).take(highest))


def select(sample: dict, keep: Tensor) -> dict:
    """The sample with only the instances where keep [G] is True; of layers, those that still hold one."""
    if keep.all():
        return sample
    boxes, masks = sample["boxes"], _array(sample["masks"])
    kept = {**sample, "boxes": tv_tensors.wrap(boxes.as_subclass(Tensor)[keep], like=boxes)}
    kept["labels"] = sample["labels"][keep]
    if "numbers" in sample:
        kept["numbers"] = sample["numbers"][keep]
        numbers = kept["numbers"].numpy()
        stay = np.zeros(_length(masks, numbers), dtype=masks.dtype)
        stay[numbers] = numbers
        masks = stay.take(masks, mode="clip")
        kept["masks"] = _mask(masks[masks.any(axis=(1, 2))])
    else:
        kept["masks"] = _mask(masks[keep.numpy()])
    return kept


def laid_over(below: dict, above: dict) -> dict:
    """The masks of one sample and, over them, those of another of its size: `masks` and, of layers, `numbers`.

    What lies below loses the pixels of what lies above. So those are free in every layer, and the other's layers go
    into these one by one, with numbers that come after.
    """
    free = ~covered(above).numpy()
    first, second = _array(below["masks"]), _array(above["masks"])
    count = len(first)
    if "numbers" not in below:
        masks = np.empty((count + len(second), *free.shape), dtype=first.dtype)
        np.multiply(first, free.view(np.uint8), out=masks[:count])
        masks[count:] = second
        return {"masks": _mask(masks)}
    numbers, other = below["numbers"].numpy(), above["numbers"].numpy()
    start = numbers.max(initial=0) + 1
    after = np.arange(start, start + len(other))
    dtype = first.dtype if after.max(initial=0) <= np.iinfo(first.dtype).max else np.int32
    renumbered = np.zeros(_length(second, other), dtype=dtype)
    renumbered[other] = after
    masks = np.zeros((max(count, len(second)), *free.shape), dtype=dtype)
    np.multiply(first, free, out=masks[:count])
    masks[: len(second)] += renumbered.take(second, mode="clip")
    return {"masks": _mask(masks), "numbers": torch.from_numpy(np.concatenate([numbers, after]))}


def _array(masks: Tensor) -> np.ndarray:
    # NumPy: counting is 40 times as quick as torch's, and taking by a table 3 times.
    return masks.as_subclass(Tensor).numpy()


def _mask(masks: np.ndarray) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(masks))


def _numbers(sample: dict) -> np.ndarray | None:
    return sample["numbers"].numpy() if "numbers" in sample else None


def _length(masks: np.ndarray, numbers: np.ndarray) -> int:
    """Of a table by number."""
    return int(max(masks.max(initial=0), numbers.max(initial=0))) + 1


def _areas(masks: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
    if numbers is None:
        return np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    return _measured(masks, numbers).areas.numpy()[numbers]


def _measured(masks: np.ndarray, numbers: np.ndarray) -> "Measures":
    """What layers hold, by number."""
    return runs.measured(torch.from_numpy(masks), int(numbers.max(initial=0)) + 1)
