"""COCO segmentations (polygons, compressed and uncompressed RLE) as bitmaps and as RLE."""

import math
from collections.abc import Sequence

import numpy as np

from htc_fast.data import runs
from htc_fast.data.numbers import LARGEST, flag, number, whole

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


def unmark(annotations: Sequence[dict]) -> int:
    """Take the mark of a crowd from CVAT's masks, and count these: there it says that an object was drawn as a mask."""
    found = [one for one in annotations if _of_cvat(one) and flag(one.get("iscrowd"))]
    for one in found:
        one["iscrowd"] = 0
    return len(found)


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
    counts = segmentation["counts"] if isinstance(segmentation, dict) else to_rle(segmentation, height, width)["counts"]
    if isinstance(counts, list):
        return not any(counts[1::2])
    letters = counts.encode() if isinstance(counts, str) else counts
    return _second(letters) <= 0 and not run_lengths(letters)[1::2].any()


def _span(values: Sequence[float], side: int) -> float:
    """How much of a side coordinates cover."""
    return min(max(values), side) - max(min(values), 0)


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict:
    """Any COCO segmentation as one compressed RLE, counts as bytes; see `usable`."""
    return to_rles([segmentation], height, width)[0]


def to_rles(segmentations: Sequence[Segmentation], height: int, width: int) -> list[dict]:
    """Those of one picture, each as `to_rle` has it."""
    found: list = [None if isinstance(one, list) else _compressed(one, height, width) for one in segmentations]
    outlines = [one for one in segmentations if isinstance(one, list)]
    drawn = iter(runs.rasterized(outlines, height, width) if outlines else [])
    return [next(drawn) if one is None else one for one in found]


def box_of(rle: dict) -> list[float]:
    """x, y, width, height of a compressed RLE's pixels; zeros where it has none."""
    height, counts = rle["size"][0], run_lengths(rle["counts"])
    ends = np.cumsum(counts)[1::2][counts[1::2] > 0]
    starts = ends - counts[1::2][counts[1::2] > 0]
    if not len(ends):
        return [0.0] * 4
    x, right = int(starts[0]) // height, int(ends[-1] - 1) // height
    # What goes on in the next column has the last row of its own and the first row of that.
    whole_column = bool((starts // height != (ends - 1) // height).any())
    y, bottom = (0, height - 1) if whole_column else (int((starts % height).min()), int(((ends - 1) % height).max()))
    return [float(x), float(y), float(right - x + 1), float(bottom - y + 1)]


def to_bitmaps(rles: Sequence[dict], height: int, width: int) -> np.ndarray:
    """Decode compressed RLEs.

    returns  uint8 [G, H, W], 0 or 1
    raises   ValueError if an RLE does not fill the image exactly, or is of another size
    """
    return runs.bitmaps(rles, height, width)


def from_bitmaps(bitmaps: np.ndarray) -> list[dict]:
    """Encode [G, H, W] bitmaps as compressed RLEs, counts as text, ready for JSON."""
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in runs.encoded(bitmaps.astype(np.uint8))]


def _of_cvat(annotation: dict) -> bool:
    """Whether it is a mask as CVAT exports it: with plain runs, and with whether it is occluded."""
    mask, attributes = annotation.get("segmentation"), annotation.get("attributes")
    plain = isinstance(mask, dict) and isinstance(mask.get("counts"), list)
    return plain and isinstance(attributes, dict) and "occluded" in attributes


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
    lengths = _decoded(codes)
    return lengths is not None and bool(lengths.min() >= 0 and lengths.sum() == pixels)


def run_lengths(counts: bytes) -> np.ndarray:
    """Lengths of the runs of a compressed RLE, int64: background, mask, background, ..., an even number of them."""
    lengths = _decoded(np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48)
    assert lengths is not None
    return np.append(lengths, 0) if len(lengths) % 2 else lengths


def _decoded(codes: np.ndarray) -> np.ndarray | None:
    """The runs behind an RLE's letters; None where a number has more of them than any has."""
    # Five bits per character, lowest first; bit 32 says that more follow, bit 16 of the last is the sign.
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(first, length)
    lengths = np.add.reduceat((codes & 31) << (5 * place), first)
    lengths -= np.where(codes[last] & 16, 1 << (5 * length), 0)
    # From the fourth on, a run is stored as its difference from the one before the last.
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def _second(letters: bytes) -> int:
    """The second of an RLE's lengths, its first run of ones; 0 where there is none."""
    # Not more than seven letters each.
    last = [place for place, letter in enumerate(letters[:14]) if not (letter - 48) & 32]
    digits = [letter - 48 & 31 for letter in letters[last[0] + 1 : last[1] + 1]] if len(last) > 1 else []
    return sum(digit << 5 * place for place, digit in enumerate(digits))


def _compressed(rle: dict, height: int, width: int) -> dict:
    """An RLE of any form, compressed; the way back from `_decoded`."""
    counts = rle["counts"]
    if isinstance(counts, list):
        left = np.array(counts, dtype=np.int64)
        left[3:] -= np.array(counts, dtype=np.int64)[1:-2]
        letters, used = np.zeros((len(left), 8), dtype=np.uint8), np.zeros((len(left), 8), dtype=bool)
        more = np.ones(len(left), dtype=bool)
        for place in range(8):
            digits, used[:, place], left = left & 31, more, left >> 5
            goes_on = left != np.where(digits & 16, -1, 0)
            letters[:, place] = np.where(goes_on, digits | 32, digits) + 48
            more = more & goes_on
        counts = letters[used].tobytes()
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
