"""What masks are asked as run lengths: their areas and boxes, their union and intersection; no mask is built."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend, _evaluation, _rle
from htc_fast.ops._arguments import flag
from htc_fast.ops._declare import declare
from htc_fast.ops.decode import one_size
from htc_fast.ops.reference import rle_algebra as reference

for _name in ("merge", "rle_area", "rle_to_box"):
    _backend.register(_name, "cpp")


def rle_area(rles: Any) -> Tensor:
    """How many pixels each mask has.

    rles     K COCO RLE dicts, or one
    returns  [K]  int64; a single number [] for one dict
    raises   TypeError for what is no RLE, ValueError for one that does not fill its image
    source   pycocotools.mask.area
    """
    return _measured("rle_area", rles)[0]


def rle_to_box(rles: Any) -> Tensor:
    """The box around each mask.

    rles     K COCO RLE dicts, or one
    returns  [K, 4]  float32, x1, y1, x2, y2: edges of pixels, so that a box's area counts pixels; zeros for a mask
             without pixels; [4] for one dict
    raises   TypeError for what is no RLE, ValueError for one that does not fill its image
    source   pycocotools.mask.toBbox, which gives x1, y1, width, height
    """
    return _measured("rle_to_box", rles)[1]


def merge(rles: Any, intersect: bool = False) -> dict[str, Any]:
    """The union of masks, or what all of them share.

    rles       K COCO RLE dicts of one size, at least one
    intersect  whether a pixel must be in all masks, instead of any
    returns    one dict {"size": [H, W], "counts": bytes}
    raises     ValueError where there are none or sizes differ, TypeError for what is no RLE
    source     pycocotools.mask.merge
    """
    intersect = flag("intersect", intersect)
    masks = _rle.read("rles", rles)
    if not len(masks.sizes):
        raise ValueError("rles must hold at least one mask: nothing has no size.")
    one_size(masks)
    if _backend.backend_for("merge", masks.runs) == "reference":
        return reference.merge(_rle.write(masks), intersect)
    runs, offsets = torch.ops.htc_fast.merge_runs(*masks, intersect)
    return _rle.write(_rle.Runs(runs, offsets, masks.sizes[:1]))[0]


def _measured(name: str, rles: Any) -> tuple[Tensor, Tensor]:
    masks = _rle.pack("rles", rles)
    if _backend.backend_for(name, masks.text) == "reference":
        areas, boxes = reference.measure(_rle.write(_rle.read("rles", rles)))
    else:
        # Straight from the strings: no run is kept.
        pixels, placed, faults = _evaluation.measure_masks(masks)
        _rle.refuse("rles", faults, masks.sizes)
        placed[:, 2:] += placed[:, :2]
        areas, boxes = pixels.long(), placed.float()
    return (areas[0], boxes[0]) if isinstance(rles, Mapping) else (areas, boxes)


def _fake_merge(runs, offsets, sizes, intersect):
    return runs.new_empty(torch.library.get_ctx().new_dynamic_size(), 2), sizes.new_empty(2)


declare("merge_runs(Tensor runs, Tensor offsets, Tensor sizes, bool intersect) -> (Tensor, Tensor)", _fake_merge)
