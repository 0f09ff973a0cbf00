"""Polygons as COCO rasterises them, also those that reach far beyond the picture.

pycocotools walks along an outline in fifths of a pixel and keeps every step: a coordinate of 1e7 takes 763 MB, one of
1e8 ends the process. A mask is made of far less: of the heights at which the outline crosses from the second to the
third fifth of each column. Where the outline is long, only these are computed, from the same steps, to the same bits.
"""

from collections.abc import Sequence

import numpy as np

FIFTHS = 5
FARTHEST = 1e6  # pixels from the origin; in fifths it fits an int32 several times
LONGEST = 1e6  # pixels of an outline that pycocotools walks along, in some 100 MB
CHUNK = 1 << 20  # crossings in memory at a time


def is_short(polygon: Sequence[float]) -> bool:
    """Whether pycocotools can walk along an outline in little time and memory."""
    low, high = min(polygon), max(polygon)
    if low < -FARTHEST or high > FARTHEST:
        return False
    if len(polygon) * (high - low) <= LONGEST:
        return True
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum()) <= LONGEST


def runs(polygon: Sequence[float], height: int, width: int) -> list[int]:
    """A polygon's uncompressed run lengths, column by column, by even and odd crossings.

    polygon  x1, y1, x2, y2, ... in pixels, up to 1e15
    returns  lengths that sum to height * width, background first
    source   rleFrPoly of pycocotools
    """
    start = np.trunc(FIFTHS * np.asarray(polygon, dtype=np.float64).reshape(-1, 2) + 0.5)
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    # Columns whose second and third fifth an edge holds both.
    first = np.clip(np.ceil((low - 2) / FIFTHS), 0, width).astype(np.int64)
    count = np.clip(np.floor((high - 3) / FIFTHS), -1, width - 1).astype(np.int64) - first + 1
    edges = np.flatnonzero(count > 0)
    cuts = np.flatnonzero(np.diff(np.cumsum(count[edges]) // CHUNK)) + 1
    turns = np.empty(0, dtype=np.int64)
    for some in np.split(edges, cuts):
        each = np.repeat(some, count[some])
        before = np.cumsum(count[some]) - count[some]
        columns = first[each] + np.arange(len(each)) - np.repeat(before, count[some])
        fifths = _crossings(start[each], end[each], columns)
        rows = np.ceil(np.clip((fifths + 0.5) / FIFTHS - 0.5, 0, height)).astype(np.int64)
        places, times = np.unique(columns * height + rows, return_counts=True)
        # Two crossings at one place are none.
        turns = np.setxor1d(turns, places[times % 2 == 1], assume_unique=True)
    turns = turns[turns < height * width]
    return np.diff(np.concatenate([[0], turns, [height * width]])).tolist()


def _crossings(start: np.ndarray, end: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The height, in fifths, at which each edge [K, 2] steps over the middle of its column [K]."""
    flat = np.abs(end - start)[:, 0] >= np.abs(end - start)[:, 1]
    along = np.where(flat, 0, 1)[:, None]
    turned = np.take_along_axis(start, along, 1) > np.take_along_axis(end, along, 1)
    start, end = np.where(turned, end, start), np.where(turned, start, end)
    (x, y), (dx, dy) = start.T, (end - start).T
    middle = FIFTHS * columns + 2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(flat, dy / dx, dx / dy)
        guess = np.floor((middle + 0.5 - x) / slope)
    step = middle - x
    level = np.minimum(np.trunc(y + slope * step + 0.5), np.trunc(y + slope * (step + 1) + 0.5))
    # A steep edge goes row by row: the last step before it is on the other side, from a little before the guess on.
    step = np.maximum(np.where(flat, 0, guess) - 3, 0)
    for _ in range(6):
        same = (np.trunc(x + slope * (step + 1) + 0.5) > middle) == (x > middle)
        step = np.where(same, step + 1, step)
    return np.where(flat, level, y + step)
