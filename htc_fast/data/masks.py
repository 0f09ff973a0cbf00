"""COCO segmentations (polygons, compressed and uncompressed RLE) as bitmaps and as RLE."""

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from htc_fast.data import polygons
from htc_fast.data.numbers import LARGEST, number, whole

Segmentation = list | dict


def usable(segmentation: object, height: int, width: int) -> Segmentation | None:
    """A segmentation of plain numbers, as `to_rle` takes it; None where it is none of a picture of that size.

    segmentation  polygons, one of them with three points; one polygon alone; an RLE of the picture's size. A polygon
                  is x1, y1, x2, y2, ... or a list of points; numbers may be text
    """
    if isinstance(segmentation, dict):
        return _usable_rle(segmentation, height, width)
    if not isinstance(segmentation, list):
        return None
    if not any(isinstance(part, list) for part in segmentation) or _holds_points(segmentation):
        segmentation = [segmentation]
    found = [_polygon(part) for part in segmentation]
    # Less than three points are no area; what is no list of points spoils the whole.
    return [one for one in found if one] if all(one is not None for one in found) and any(found) else None


def is_blank(segmentation: Segmentation, height: int, width: int) -> bool:
    """True for a mask without a pixel in the picture: beyond it, in shares of it from 0 to 1, or all background."""
    if isinstance(segmentation, list):
        spans = (
            [_span(part[0::2], width) for part in segmentation],
            [_span(part[1::2], height) for part in segmentation],
        )
        if any(min(x, y) >= 1 for x, y in zip(*spans)):
            return False
        if all(0 <= min(part) and max(part) <= 1 for part in segmentation):
            return True
    return int(coco_mask.area(to_rle(segmentation, height, width))) == 0


def _span(values: Sequence[float], side: int) -> float:
    """How much of a side coordinates cover."""
    return min(max(values), side) - max(min(values), 0)


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict:
    """Any COCO segmentation as one compressed RLE, counts as bytes; see `usable`."""
    if isinstance(segmentation, list):
        parts = []
        for polygon in segmentation:
            if len(polygon) >= 6 and polygons.is_short(polygon):
                parts += coco_mask.frPyObjects([polygon], height, width)
            elif len(polygon) >= 6:
                counts = polygons.runs(polygon, height, width)
                parts.append(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
        return coco_mask.merge(parts)
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def to_bitmaps(rles: Sequence[dict], height: int, width: int) -> np.ndarray:
    """Decode compressed RLEs.

    returns  uint8 [G, H, W], 0 or 1
    raises   ValueError if an RLE does not fill the image exactly
    """
    bitmaps = np.empty((len(rles), height, width), dtype=np.uint8)
    # One by one: turning column-major into row-major is quick only while a mask fits the cache.
    for bitmap, rle in zip(bitmaps, rles):
        bitmap[:] = coco_mask.decode(rle)
    return bitmaps


def from_bitmaps(bitmaps: np.ndarray) -> list[dict]:
    """Encode [G, H, W] bitmaps as compressed RLEs, counts as text, ready for JSON."""
    encoded = coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in encoded]


def _usable_rle(rle: dict, height: int, width: int) -> dict | None:
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(size, (list, tuple)) or [whole(side) for side in size] != [height, width]:
        return None
    if isinstance(counts, list):
        if set(map(type, counts)) != {int}:
            counts = [whole(count) for count in counts]
        fits = counts and None not in counts and min(counts) >= 0 and sum(counts) == height * width
    else:
        fits = isinstance(counts, (str, bytes)) and _fills(counts, height * width)
    return {"size": [height, width], "counts": counts} if fits else None


def _holds_points(part: list) -> bool:
    """Whether a polygon is given as points, [[x, y], [x, y], [x, y]]: as polygons they would be none."""
    return len(part) > 2 and all(isinstance(point, list) and len(point) == 2 for point in part)


def _polygon(part: object) -> list[float] | None:
    """Three or more points as one list of numbers; an empty one for less; None for what are no points."""
    if not isinstance(part, list):
        return None
    values: list = [value for point in part for value in point] if _holds_points(part) else part
    if set(map(type, values)) <= {int, float}:
        # In range only if every number is and none is NaN; many times quicker than asking each.
        plain = not values or (min(values) >= -LARGEST and max(values) <= LARGEST and math.isfinite(sum(values)))
    else:
        values = [number(value) for value in values]
        plain = None not in values
    if not plain or len(values) % 2:
        return None
    return values if len(values) >= 6 else []


def _fills(text: str | bytes, pixels: int) -> bool:
    """True if a compressed RLE's runs add up to the image: pycocotools leaves the rest of a short one to chance."""
    letters = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    codes = np.frombuffer(letters, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return False
    runs = _decoded(codes)
    return runs is not None and bool(runs.min() >= 0 and runs.sum() == pixels)


def run_lengths(counts: bytes) -> np.ndarray:
    """Lengths of the runs of a compressed RLE, int64: background, mask, background, ..., an even number of them."""
    runs = _decoded(np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48)
    assert runs is not None
    return np.append(runs, 0) if len(runs) % 2 else runs


def _decoded(codes: np.ndarray) -> np.ndarray | None:
    """The runs behind an RLE's letters; None where a number has more of them than any has."""
    # Five bits per character, lowest first; bit 32 says that more follow, bit 16 of the last is the sign.
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(first, length)
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    runs -= np.where(codes[last] & 16, 1 << (5 * length), 0)
    # From the fourth on, a run is stored as its difference from the one before the last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
