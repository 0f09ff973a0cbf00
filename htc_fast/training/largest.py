"""The largest batch that a run may come to, which needs the most memory."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from htc_fast.data.coco import CocoDataset
from htc_fast.data.copy_paste import CopyPaste
from htc_fast.data.jitter import ScaleJitter
from htc_fast.data.loader import STRIDE, Collate
from htc_fast.data.pictures import resized_size
from htc_fast.data.transforms import QuarterTurn, RandomCrop, Resize
from htc_fast.models.structures import UNLABELLED, Targets

DRAWN = 4  # pictures that it is made of, each as often as it takes


def largest_batch(
    train: CocoDataset, copy_paste: float, collate: Collate, count: int
) -> tuple[Tensor, Tensor, Targets, list[str]]:
    """A batch of so many pictures in the largest shape that the transforms can make.

    train       pictures with their transforms; of one orientation, those with the most instances are taken
    copy_paste  share of pictures that get objects of another one; above 0: all of these do
    returns     as a batch of `collate`, but for image_sizes, which leave nothing of the frame out
    """
    shapes = [_largest(train, *train.annotations.sizes[i]) for i in train.keep]
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(train.groups):
        groups.setdefault(group, []).append(index)
    sides = {group: [max(shapes[i][axis] for i in found) for axis in (0, 1)] for group, found in groups.items()}
    group = max(sides, key=lambda one: sides[one][0] * sides[one][1])
    height, width = (collate.multiple * -(-side // collate.multiple) for side in sides[group])
    crowded = sorted(groups[group], key=lambda i: -train.annotations.trainable[train.keep[i]])[:DRAWN]
    source = CopyPaste(train, 1.0) if copy_paste else train
    samples = itertools.cycle([source[i] for i in crowded[:count]])
    batch = collate(list(itertools.islice(samples, count)))
    return _framed(*batch, height, width)


def _largest(train: CocoDataset, height: int, width: int) -> tuple[int, int]:
    """Height and width that a picture comes to at most."""
    for step in getattr(train.transform, "transforms", ()):
        if isinstance(step, Resize):
            short, long = (step.short[1], step.long) if step.short else (min(height, width), max(height, width))
            height, width = resized_size(height, width, short * step.scale[1], long * step.scale[1])
        elif isinstance(step, RandomCrop):
            height, width = min(height, step.size[0]), min(width, step.size[1])
        elif isinstance(step, ScaleJitter):
            height = width = step.side
        elif isinstance(step, QuarterTurn):
            height = width = max(height, width)
    return height, width


def _framed(
    images: Tensor, image_sizes: Tensor, targets: Targets, names: list[str], height: int, width: int
) -> tuple[Tensor, Tensor, Targets, list[str]]:
    """The batch with its pictures in a frame of that size, or in their own where that is larger."""
    height, width = max(height, images.shape[2]), max(width, images.shape[3])
    down, right = height - images.shape[2], width - images.shape[3]
    values = vars(targets) | {"masks": F.pad(targets.masks, (0, right, 0, down))}
    if targets.semantic is not None:
        values["semantic"] = F.pad(targets.semantic, (0, right // STRIDE, 0, down // STRIDE), value=UNLABELLED)
    sizes = torch.tensor([[height, width]]).expand_as(image_sizes).contiguous()
    return F.pad(images, (0, right, 0, down)), sizes, Targets(**values), names
