"""COCO segmentations (polygons, compressed and uncompressed RLE) as bitmaps and as RLE."""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

Segmentation = list | dict


def is_usable(segmentation: object, height: int, width: int) -> bool:
    """True for polygons, one of them with three points, or an RLE of the image's size."""
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            return False
        if isinstance(counts, list):
            return all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == height * width
        return isinstance(counts, (str, bytes)) and _fills(counts, height * width)
    return isinstance(segmentation, list) and len(_polygons(segmentation)) > 0


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict:
    """Any COCO segmentation as one compressed RLE, counts as bytes; `is_usable` must hold."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation), height, width))
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


def _polygons(segmentation: list) -> list[list[float]]:
    """The polygons with at least three points, each number finite."""
    return [polygon for polygon in segmentation if isinstance(polygon, list) and _is_polygon(polygon)]


def _is_polygon(polygon: list) -> bool:
    # A sum is finite only if every number is; it is many times quicker than asking each.
    with contextlib.suppress(TypeError):
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
    return False


def _fills(text: str | bytes, pixels: int) -> bool:
    """True if a compressed RLE's runs add up to the image: pycocotools leaves the rest of a short one to chance."""
    codes = np.frombuffer(text.encode("utf-8") if isinstance(text, str) else text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return False
    # Five bits per character, lowest first; bit 32 says that more follow, bit 16 of the last is the sign.
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 7:
        return False
    place = np.arange(len(codes)) - np.repeat(first, length)
    runs = np.add.reduceat((codes & 31) << (5 * place), first)
    runs -= np.where(codes[last] & 16, 1 << (5 * length), 0)
    # From the fourth on, a run is stored as its difference from the one before the last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return bool(runs.min() >= 0 and runs.sum() == pixels)
