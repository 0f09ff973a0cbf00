"""Polygons to pixels, as COCO has them, in plain Python.

An outline is walked along in fifths of a pixel, from vertex to vertex, in steps of one along an edge's longer side.
Where it steps over the middle of a column, from its second to its third fifth, the column's pixels below change sides.
"""

from bisect import bisect_left
from collections.abc import Iterator
from math import isfinite
from struct import pack, unpack

import torch
from torch import Tensor

from htc_fast.ops.reference.rle import write_runs


def rasterize(points: Tensor, parts: Tensor, objects: Tensor, height: int, width: int) -> list[bytes]:
    """points [P, 2], parts [Q + 1], objects [K + 1] -> K strings."""
    runs: list[list[int]] = []
    offsets = [0]
    for polygons in _objects(points, parts, objects):
        found = sorted(run for polygon in polygons for run in pixels(polygon, height, width))
        runs += _union(found)
        offsets.append(len(runs))
    sizes = torch.tensor([[height, width]] * (len(objects) - 1)).reshape(-1, 2)
    return write_runs(torch.tensor(runs, dtype=torch.int64).reshape(-1, 2), torch.tensor(offsets), sizes)


def rasterize_in_boxes(
    points: Tensor, parts: Tensor, objects: Tensor, boxes: Tensor, index: Tensor, size: int, single: bool
) -> Tensor:
    """boxes [G, 4] float64, index [G] -> bool [G, size, size]."""
    out, each = torch.zeros(len(boxes), size * size, dtype=torch.bool), list(_objects(points, parts, objects))
    for (x1, y1, x2, y2), mask, k in zip(boxes.tolist(), out, index.tolist(), strict=True):
        if not all(isfinite(one) and abs(one) <= 1e15 for one in (x1, y1, x2, y2)):
            continue
        wide, high = _scale(x1, x2, size, single), _scale(y1, y2, size, single)
        for polygon in each[k]:
            for begin, end in pixels([((x - x1) * wide, (y - y1) * high) for x, y in polygon], size, size):
                mask[begin:end] = True
    return out.view(-1, size, size).transpose(1, 2).contiguous()


def pixels(polygon: list[tuple[float, float]], height: int, width: int) -> list[list[int]]:
    """Runs [begin, end) of a polygon, column by column."""
    if len(polygon) < 3:
        return []
    fifths = [(float(int(5 * x + 0.5)), float(int(5 * y + 0.5))) for x, y in polygon]
    places: set[int] = set()
    for start, end in zip(fifths, fifths[1:] + fifths[:1], strict=True):
        for place in _crossings(start, end, height, width):
            places ^= {place}  # two at one place are none
    turns = sorted(places)
    return _union([[begin, end] for begin, end in zip(turns[::2], turns[1::2], strict=True)])


def _crossings(start: tuple[float, float], end: tuple[float, float], height: int, width: int) -> Iterator[int]:
    """Where an edge steps over the middles of columns, as pixels column by column."""
    dx, dy = abs(end[0] - start[0]), abs(end[1] - start[1])
    flat = dx >= dy
    (x, y), (to_x, to_y) = (end, start) if start[0 if flat else 1] > end[0 if flat else 1] else (start, end)
    low, high = min(x, to_x), max(x, to_x)
    for column in range(max(0, int(min(-((2 - low) // 5), width))), int(max(-1, min(width - 1, (high - 3) // 5))) + 1):
        middle = 5.0 * column + 2
        if flat:
            slope, step = (to_y - y) / dx, middle - x
            level = min(int(y + slope * step + 0.5), int(y + slope * (step + 1) + 0.5))
        else:
            slope = (to_x - x) / dy
            before = _steps_before(x, slope, middle, int(dy))
            level = int(y + before)
        yield column * height + max(0, min(height, -((2 - level) // 5)))


def _steps_before(x: float, slope: float, middle: float, most: int) -> int:
    """How many steps along a steep edge stay on the side of `middle` on which it begins, but for the first."""

    def past(step: int) -> bool:
        return (int(x + slope * step + 0.5) > middle) == (slope > 0)

    return bisect_left(range(1, most + 1), True, key=past)


def _scale(low: float, high: float, size: int, single: bool) -> float:
    if not single:
        return size / max(high - low, 0.1)
    side = _float32(high - low)
    return size / 0.1 if side < 0.1 else _float32(size / side)


def _float32(value: float) -> float:
    return unpack("f", pack("f", value))[0]


def _union(runs: list[list[int]]) -> list[list[int]]:
    """Runs in the order of their begins, those that meet as one."""
    found: list[list[int]] = []
    for begin, end in runs:
        if found and begin <= found[-1][1]:
            found[-1][1] = max(end, found[-1][1])
        else:
            found.append([begin, end])
    return found


def _objects(points: Tensor, parts: Tensor, objects: Tensor) -> Iterator[list[list[tuple[float, float]]]]:
    """Each object's polygons as lists of points."""
    every, starts, ends = points.tolist(), parts.tolist(), objects.tolist()
    for k in range(len(ends) - 1):
        yield [every[starts[q] : starts[q + 1]] for q in range(ends[k], ends[k + 1])]
