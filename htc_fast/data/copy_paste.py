"""Copy-paste: objects of one picture, put over another, with all that they cover."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from htc_fast.data.coco import CocoDataset
from htc_fast.data.numbered import covered, laid_over, owners, select, visible_area
from htc_fast.data.semantic import Derived, Maps
from htc_fast.data.transforms import cut, reboxed

MOST = 100  # objects that a picture gets, as in mmdetection
# What is left of an object that stays one: a share of its pixels, or so many of them.
LEAST_SHARE, LEAST_AREA = 0.1, 300


class CopyPaste(Dataset):
    """A data set in which some pictures have got objects of others; everything is drawn from torch's generator.

    dataset  gives samples that went through its transform: each picture has its own size and flips
    share    of pictures that get a random number of objects, 1 to all (at most 100), of another random picture; of
             sizes that differ, the one lies on the other at random

    image, masks, boxes and semantic map are those of the new picture; see `paste`.
    source   Simple Copy-Paste (CVPR 2021), without blending: the paper finds no use in it
    """

    def __init__(self, dataset: CocoDataset, share: float):
        self.dataset, self.share = dataset, share

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        sample = self.dataset[index]
        if float(torch.rand(())) >= self.share:
            return sample
        # Any but this one, unless it is alone.
        others = max(len(self) - 1, 1)
        source = self.dataset[(index + 1 + int(torch.randint(0, others, ()))) % len(self)]
        source = placed(source, F.get_size(sample["image"]))
        # Resizing may leave a small one without a pixel.
        there = visible_area(source).nonzero().flatten()
        if not len(there):
            return sample
        wanted = int(torch.randint(1, min(len(there), MOST) + 1, ()))
        chosen = torch.zeros(len(source["labels"]), dtype=torch.bool)
        chosen[there[torch.randperm(len(there))[:wanted]]] = True
        return paste(sample, source, chosen, self.dataset.maps)


def placed(sample: dict, size: list[int]) -> dict:
    """A sample on a canvas of (height, width) = size: what is smaller lies in it at random, what is larger is cut."""
    height, width = F.get_size(sample["image"])
    if [height, width] == list(size):
        return sample
    free = size[0] - height, size[1] - width
    top, left = (int(torch.randint(0, abs(one) + 1, ())) * (-1 if one > 0 else 1) for one in free)
    return cut(sample, top, left, (size[0], size[1]))


def paste(sample: dict, source: dict, chosen: Tensor, maps: Maps | None) -> dict:
    """Put the chosen objects of one sample over another of the same size.

    chosen   [G of source] bool, at least one
    maps     of both: in derived ones, the objects become their classes; else the source's map goes with the pixels
    returns  the sample with objects behind, then the pasted ones. Of those behind, one that lost pixels has the box of
             what is left, and goes where that is neither a tenth of it nor more than 300 pixels
    source   mmdetection's CopyPaste; there an object also stays where its box moved by at most 10 pixels, which for
             a small one is much and for a large one nothing: here it is a share
    """
    pasted = select(source, chosen)
    where = covered(pasted)
    together = laid_over(sample, pasted)
    count = len(sample["labels"])
    before, after = visible_area(sample), visible_area({**sample, **together})[:count]
    lost = after < before
    gone = lost & (after <= LEAST_AREA) & (after < LEAST_SHARE * before)
    boxes = torch.cat([one["boxes"].as_subclass(Tensor) for one in (sample, pasted)])
    new = {
        **sample,
        **together,
        "image": _mixed(sample["image"], source["image"], where),
        "boxes": tv_tensors.wrap(boxes, like=sample["boxes"]),
        "labels": torch.cat([sample["labels"], pasted["labels"]]),
    }
    if "semantic" in sample:
        over = source["semantic"].as_subclass(Tensor)
        if isinstance(maps, Derived):
            over = torch.from_numpy(maps.painted_as(pasted["labels"].numpy()))[owners(pasted).clamp(min=0)]
        below = sample["semantic"].as_subclass(Tensor)
        new["semantic"] = tv_tensors.Mask(torch.where(where, over.to(below.dtype), below))
    added = torch.zeros(len(pasted["labels"]), dtype=torch.bool)
    new = reboxed(new, torch.cat([lost & ~gone, added]))
    return select(new, ~torch.cat([gone, added])) if gone.any() else new


def _mixed(below: Tensor, above: Tensor, where: Tensor) -> tv_tensors.Image:
    """One image [3, H, W], and another where [H, W] is True."""
    pixels, over = (one.as_subclass(Tensor).permute(1, 2, 0).numpy() for one in (below, above))
    pixels, over = np.array(pixels, order="C"), np.ascontiguousarray(over)
    # Three bytes as one thing: 40 times as quick as numbers, of which each is looked at by itself.
    pixel = np.dtype((np.void, 3 * pixels.itemsize))
    np.copyto(pixels.view(pixel), over.view(pixel), where=where.numpy()[..., None])
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
