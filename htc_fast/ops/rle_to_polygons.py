"""From masks back to polygons, to give annotations to other tools: outlines along the edges of pixels, nothing lost."""

from itertools import pairwise
from typing import Any

import torch

from htc_fast.ops import _backend, _rle
from htc_fast.ops._arguments import choice
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import rle_to_polygons as reference

_backend.register("rle_to_polygons", "cpp")


def rle_to_polygons(rles: Any, holes: str = "bridged") -> list[list[Any]]:
    """Outlines of masks along the edges of their pixels; works on runs, the full masks are never built.

    rles     K COCO RLE dicts, as `encode_masks` and pycocotools make them, or one
    holes    "bridged": plain COCO polygons, where an outline goes to its holes and back on one way;
             "separate": outlines and holes as rings of their own, as GeoJSON wants them
    returns  K lists of pieces, in the order of their leftmost upper pixels, with whole coordinates, and corners alone.
             Pixels that touch at a corner alone are two pieces. bridged: [x1, y1, x2, y2, ...], of which `rasterize`
             makes the same RLE again; separate: {"outer": [[x, y], ...], "holes": [[[x, y], ...], ...]}, none closed
             by its first point again, none visiting a point twice. Outer rings have a positive area
             sum(x1 * y2 - x2 * y1) / 2, holes a negative one: on a screen, y down, clockwise and the other way
    raises   TypeError, ValueError for what is no RLE and for other words
    source   crack following, the mask on the right; polygons as in the COCO API, rings as in RFC 7946
    """
    bridged = choice("holes", holes, ("bridged", "separate")) == "bridged"
    masks = _rle.read("rles", rles)
    if _backend.backend_for("rle_to_polygons", masks.runs) == "reference":
        return reference.rle_to_polygons(*masks, bridged)
    # Coordinates, and where rings begin in their points, pieces in the rings, masks in the pieces.
    found = torch.ops.htc_fast.rle_to_polygons(*masks, bridged)
    points, rings, pieces, ends = (one.tolist() for one in found)
    if bridged:
        every = [points[2 * begin : 2 * end] for begin, end in pairwise(rings)]
    else:
        pairs = list(map(list, zip(points[::2], points[1::2], strict=True)))
        each = [pairs[begin:end] for begin, end in pairwise(rings)]
        every = [{"outer": each[begin], "holes": each[begin + 1 : end]} for begin, end in pairwise(pieces)]
    return [every[begin:end] for begin, end in pairwise(ends)]


def _fake(runs, offsets, sizes, bridged):
    lengths = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))
    return *(runs.new_empty(length) for length in lengths), offsets.new_empty(offsets.shape[0])


declare(
    "rle_to_polygons(Tensor runs, Tensor offsets, Tensor sizes, bool bridged) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake,
)
