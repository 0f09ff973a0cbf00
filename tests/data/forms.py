"""Samples in both forms of masks, and back."""

import torch
from torchvision import tv_tensors


def plain(tensor):
    return tensor.as_subclass(torch.Tensor)


def sample_of(masks, labels=None, level=0, semantic=None):
    """A grey picture whose instances have these masks [G, H, W] and the boxes of them."""
    masks = torch.as_tensor(masks, dtype=torch.uint8)
    height, width = masks.shape[1:]
    boxes = torch.stack([box_of(mask) for mask in masks]) if len(masks) else torch.zeros(0, 4)
    sample = {
        "image": tv_tensors.Image(torch.full((3, height, width), level, dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(masks)) if labels is None else torch.tensor(labels, dtype=torch.int64),
        "masks": tv_tensors.Mask(masks),
        "name": "a.jpg",
    }
    if semantic is not None:
        sample["semantic"] = tv_tensors.Mask(torch.as_tensor(semantic, dtype=torch.uint8))
    return sample


def box_of(mask):
    """By its pixels; zeros for none."""
    y, x = torch.nonzero(plain(mask) if isinstance(mask, tv_tensors.Mask) else mask, as_tuple=True)
    return torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float() if len(x) else torch.zeros(4)


def layered(sample, first=3, step=2):
    """The same sample in layers: each instance in the first one where it is free, under odd numbers."""
    masks = plain(sample["masks"])
    numbers = first + step * torch.arange(len(masks)).flip(0)
    layers = []
    for mask, number in zip(masks.bool(), numbers):
        layer = next((one for one in layers if not one[mask].any()), None)
        if layer is None:
            layer = torch.zeros(masks.shape[1:], dtype=torch.int32)
            layers.append(layer)
        layer[mask] = int(number)
    found = torch.stack(layers) if layers else torch.zeros(0, *masks.shape[1:], dtype=torch.int32)
    return {**sample, "masks": tv_tensors.Mask(found), "numbers": numbers}


def in_rows(sample):
    """A sample of either form with a map per instance; of layers, what their form promises is checked."""
    if "numbers" not in sample:
        return sample
    masks, numbers = plain(sample["masks"]), sample["numbers"]
    assert masks.dtype == torch.int32 and numbers.dtype == torch.int64 and len(numbers.unique()) == len(numbers)
    assert set(masks.unique().tolist()) <= {0, *numbers.tolist()} and (not len(numbers) or numbers.min() > 0)
    found = masks[None] == numbers[:, None, None, None]
    assert (found.flatten(2).any(dim=2).sum(dim=1) <= 1).all(), "an instance in two layers"
    rows = {key: value for key, value in sample.items() if key != "numbers"}
    return {**rows, "masks": tv_tensors.Mask(found.any(dim=1).to(torch.uint8))}


def assert_same(one, other):
    """Equal in all but the form of the masks."""
    one, other = in_rows(one), in_rows(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype and torch.equal(plain(value), plain(other[key])), key
        else:
            assert value == other[key]
