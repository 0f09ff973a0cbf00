"""Masks cut, resized, turned around and moved as run lengths; no mask is built.

All four choose columns and move rows. Two tables say how: which column of the mask each column of the result is, and
where the rows above each edge between rows end up. One kernel follows them, run by run.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from htc_fast.errors import MOST, short
from htc_fast.ops import _backend, _rle
from htc_fast.ops._arguments import flag, items, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import transform_rles as reference

for _name in ("crop", "flip", "resize", "shift"):
    _backend.register(_name, "cpp")

MOST_PIXELS = 2**26  # along a side
# Of masks [height, width]: columns [W], rows [height + 1] and the height of the result; see csrc/masks.h.
Tables = tuple[Tensor, Tensor, int]


def crop(rles: Any, box: Any) -> Any:
    """What a window shows of each mask.

    rles     K COCO RLE dicts, or one
    box      x1, y1, x2, y2 in whole pixels; what reaches outside the image is empty there, so that the result always
             has the window's size
    returns  K dicts {"size": [y2 - y1, x2 - x1], "counts": bytes}; one for one
    raises   ValueError where the box has its corners the wrong way around, TypeError where it is no whole numbers
    source   mask[y1:y2, x1:x2]
    """
    x1, y1, x2, y2 = _wholes("box", box, 4)
    _held("box", y2 - y1, x2 - x1)
    if x2 < x1 or y2 < y1:
        raise ValueError(f"box must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got {short([x1, y1, x2, y2])}.")
    return _moved("crop", rles, -x1, -y1, sides("box's size", (y2 - y1, x2 - x1)))


def shift(rles: Any, dx: int, dy: int, image_size: tuple[int, int] | None = None) -> Any:
    """Each mask moved by whole pixels, into an image of that size; what leaves it is cut off.

    rles        K COCO RLE dicts, or one
    dx, dy      pixels to the right and down; negative: to the left and up
    image_size  height, width of the result; None: the mask's own
    returns     K dicts {"size": [H, W], "counts": bytes}; one for one
    raises      TypeError where dx or dy is no whole number, ValueError for an RLE that does not fill its image
    source      a paste of the mask at that offset
    """
    dx, dy = _wholes("dx, dy", (dx, dy), 2)
    size = None if image_size is None else sides("image_size", image_size)
    _held("image_size", *(size or (0, 0)))
    return _moved("shift", rles, dx, dy, size)


def flip(rles: Any, horizontal: bool = True) -> Any:
    """Each mask mirrored: left and right change places, or top and bottom.

    rles        K COCO RLE dicts, or one
    horizontal  False: top and bottom change places
    returns     K dicts {"size": [H, W], "counts": bytes}; one for one
    raises      TypeError for what is no RLE, ValueError for one that does not fill its image
    source      torch.flip of the mask
    """
    horizontal = flag("horizontal", horizontal)

    def tables(height: int, width: int) -> Tables:
        columns, rows = torch.arange(width), torch.arange(height + 1)
        return (columns.flip(0), rows, height) if horizontal else (columns, rows.flip(0), height)

    return _transform("flip", rles, tables, lambda mask: reference.flip(mask, horizontal))


def resize(rles: Any, image_size: tuple[int, int]) -> Any:
    """Each mask at another size: every pixel takes the one under its centre.

    rles        K COCO RLE dicts, or one
    image_size  height, width of the result
    returns     K dicts {"size": [H, W], "counts": bytes}; one for one
    raises      ValueError where an image, before or after, has no pixels; TypeError for what is no RLE
    source      F.interpolate(mask, image_size, mode="nearest-exact")
    """
    height, width = sides("image_size", image_size)
    _held("image_size", height, width)
    if not height or not width:
        raise ValueError(f"image_size must have at least one pixel, got {short([height, width])}.")

    def tables(old_height: int, old_width: int) -> Tables:
        if not old_height or not old_width:
            raise ValueError(f"rles must have pixels to be resized, got a size of {short([old_height, old_width])}.")
        edges = torch.arange(old_height + 1)
        return _sources(old_width, width), torch.searchsorted(_sources(old_height, height), edges), height

    return _transform("resize", rles, tables, lambda mask: reference.resize(mask, height, width))


def _sources(old: int, new: int) -> Tensor:
    """[new] which of so many pixels each pixel takes: torch's own rounding of float32 masks, asked of torch."""
    # Where a centre lies on an edge, float64 may fall on its other side.
    pixels = torch.arange(old, dtype=torch.float32 if old <= 2**24 else torch.float64)[None, None]
    return F.interpolate(pixels, size=new, mode="nearest-exact")[0, 0].long()


def _moved(name: str, rles: Any, dx: int, dy: int, image_size: tuple[int, int] | None) -> Any:
    def tables(old_height: int, old_width: int) -> Tables:
        height, width = image_size or (old_height, old_width)
        columns = torch.arange(width) - dx
        rows = (torch.arange(old_height + 1) + dy).clamp(0, height)
        return columns.masked_fill(columns >= old_width, -1), rows, height

    return _transform(name, rles, tables, lambda mask: reference.move(mask, dx, dy, image_size))


def _transform(name: str, rles: Any, tables: Callable[[int, int], Tables], image: Callable[[Tensor], Tensor]) -> Any:
    """tables: what the kernel follows; image: what the reference does with a decoded mask [H, W]."""
    alone = isinstance(rles, Mapping)
    rles = [rles] if alone else items("rles", rles)
    masks = _rle.read("rles", rles)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(map(tuple, masks.sizes.tolist())):
        groups.setdefault(size, []).append(index)
    plain = _backend.backend_for(name, masks.runs) == "reference"
    made: list[Any] = [None] * len(rles)
    for (height, width), indices in groups.items():
        how = tables(height, width)
        some = masks if len(groups) == 1 else _rle.read("rles", [rles[index] for index in indices])
        found = reference.each(_rle.write(some), image) if plain else _follow(some, width, *how)
        for index, one in zip(indices, found, strict=True):
            made[index] = one
    return made[0] if alone else made


def _follow(masks: _rle.Runs, width: int, columns: Tensor, rows: Tensor, height: int) -> list[dict[str, Any]]:
    runs, offsets = torch.ops.htc_fast.transform_runs(masks.runs, masks.offsets, columns, rows, width, height)
    sizes = torch.tensor([[height, len(columns)]]).expand(len(masks.sizes), 2).contiguous()
    return _rle.write(_rle.Runs(runs, offsets, sizes))


def _held(name: str, height: int, width: int) -> None:
    """raises  ValueError where a row or a column for each pixel of a side does not fit into memory"""
    if max(height, width) > MOST_PIXELS:
        raise ValueError(f"{name} must have at most {MOST_PIXELS} rows and columns, got {height} and {width}.")


def _wholes(name: str, values: Any, wanted: int) -> list[int]:
    given = [_rle.whole(name, one) for one in items(name, values)]
    if len(given) != wanted or any(abs(one) > MOST for one in given):
        raise ValueError(f"{name} must be {wanted} whole numbers below 2^31, got {short(given)}.")
    return given


def _fake(runs, offsets, columns, rows, width, out_height):
    return runs.new_empty(torch.library.get_ctx().new_dynamic_size(), 2), torch.empty_like(offsets)


declare(
    "transform_runs(Tensor runs, Tensor offsets, Tensor columns, Tensor rows, int width, int out_height)"
    " -> (Tensor, Tensor)",
    _fake,
)
