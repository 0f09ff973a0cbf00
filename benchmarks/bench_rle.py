"""Areas, boxes, merges, flips, resizes and crops of run lengths, beside pycocotools or a decode, change and encode."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from benchmarks.cases import select
from benchmarks.whole_masks import QUICK, USUAL, masks, words
from htc_fast import ops


def alike(ours, other, who):
    if isinstance(ours, torch.Tensor):
        assert ours.tolist() == np.asarray(other).tolist(), f"differs from {who}"
    else:
        ours, other = ([one] if isinstance(one, dict) else one for one in (ours, other))
        assert [one["counts"] for one in ours] == [one["counts"] for one in other], f"differs from {who}"


def boxes(rles):
    found = coco_mask.toBbox(rles)
    found[:, 2:] += found[:, :2]
    return found


def by_masks(rles, change):
    """One mask after the other, so that they need not lie in memory together."""
    return [coco_mask.encode(np.asfortranarray(change(coco_mask.decode(one)))) for one in rles]


def halved(mask):
    size = [side // 2 for side in mask.shape]
    return F.interpolate(torch.from_numpy(mask)[None, None], size=size, mode="nearest-exact")[0, 0].numpy()


def calls_of(name, rles):
    height, width = rles[0]["size"]
    top, left = height // 4, width // 4
    window = (left, top, 3 * left, 3 * top)
    detour = "decode, change, encode"
    return {
        "area": {"htc_fast": lambda: ops.rle_area(rles), "pycocotools": lambda: coco_mask.area(rles)},
        "box": {"htc_fast": lambda: ops.rle_to_box(rles), "pycocotools": lambda: boxes(rles)},
        "merge": {"htc_fast": lambda: ops.merge(rles), "pycocotools": lambda: coco_mask.merge(rles)},
        "flip": {"htc_fast": lambda: ops.flip(rles), detour: lambda: by_masks(rles, lambda one: one[:, ::-1])},
        "resize": {
            "htc_fast": lambda: ops.resize(rles, (height // 2, width // 2)),
            detour: lambda: by_masks(rles, halved),
        },
        "crop": {
            "htc_fast": lambda: ops.crop(rles, window),
            detour: lambda: by_masks(rles, lambda one: one[top : 3 * top, left : 3 * left]),
        },
    }[name]


@pytest.mark.parametrize("name", ["area", "box", "merge", "flip", "resize", "crop"])
@pytest.mark.parametrize(("count", "image", "kind"), select(USUAL, QUICK))
def bench_rle(compare, draw, count, image, kind, name):
    rles = ops.encode(masks(*((2, (96, 130), kind) if draw.tiny else (count, image, kind))))
    op = {"area": "rle_area", "box": "rle_to_box"}.get(name, name)
    compare(f"{name}, {words(count, image, kind)}", calls_of(name, rles), alike, backend=f"cpp, {op}")
