"""Outlines of masks along the edges of pixels, in plain Python, pixel by pixel.

A crack is the edge between a pixel of the mask and one outside, one pixel long, walked along with the mask on the
right. Where two pixels touch at a corner alone, a walk stays at its pixel; a walk that comes to a corner twice leaves a
hole behind.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

Point = tuple[int, int]
RIGHT, DOWN, LEFT, UP = (1, 0), (0, 1), (-1, 0), (0, -1)


def rle_to_polygons(runs: Tensor, offsets: Tensor, sizes: Tensor, bridged: bool) -> list[list[Any]]:
    """runs [T, 2], offsets [K + 1], sizes [K, 2] -> K lists of pieces: see the operator."""
    made = []
    for (begin, end), (height, _) in zip(pairwise(offsets.tolist()), sizes.tolist(), strict=True):
        pixels = {divmod(at, height) for first, last in runs[begin:end].tolist() for at in range(first, last)}
        made.append(list(_pieces(pixels, bridged)))
    return made


def _pieces(pixels: set[Point], bridged: bool) -> Iterator[Any]:
    rings = sorted((ring for walk in _walks(pixels) for ring in _simple(walk)), key=lambda ring: ring[0])
    home = {crack: ring[0] for ring in rings for crack in _cracks(ring)}
    holes: dict[Point, list[list[Point]]] = {ring[0]: [] for ring in rings}
    for ring in rings:
        if _area(ring) < 0:
            holes[home[_above(ring[0], pixels)]].append(ring)
    for ring in rings:
        if _area(ring) > 0:
            if bridged:
                yield [value for point in _bridged(ring, holes, pixels) for value in point]
            else:
                inner = sorted(_within(ring, holes), key=lambda one: one[0])
                yield {"outer": [list(one) for one in ring], "holes": [[list(one) for one in hole] for hole in inner]}


def _walks(pixels: set[Point]) -> Iterator[list[Point]]:
    """Closed walks along cracks, every point of each."""
    cracks: dict[Point, dict[Point, Point]] = {}
    for x, y in pixels:
        for start, way, other in (
            ((x, y), RIGHT, (x, y - 1)),
            ((x + 1, y), DOWN, (x + 1, y)),
            ((x + 1, y + 1), LEFT, (x, y + 1)),
            ((x, y + 1), UP, (x - 1, y)),
        ):
            if other not in pixels:
                cracks.setdefault(start, {})[way] = (start[0] + way[0], start[1] + way[1])
    while cracks:
        start = at = min(cracks)
        way = RIGHT if RIGHT in cracks[start] else next(iter(cracks[start]))
        walk = []
        while True:
            walk.append(at)
            following = cracks[at].pop(way)
            if not cracks[at]:
                del cracks[at]
            at = following
            if at == start and (at not in cracks):
                break
            # To the right first: around the same pixel.
            way = next(one for one in ((-way[1], way[0]), way, (way[1], -way[0])) if one in cracks[at])
        yield walk


def _simple(walk: list[Point]) -> Iterator[list[Point]]:
    """The rings of a walk, none of which comes to a point twice, each from its leftmost upper corner on."""
    kept: list[Point] = []
    for point in walk:
        if point in kept:
            at = kept.index(point)
            yield _corners(kept[at:])
            kept = kept[:at]
        kept.append(point)
    yield _corners(kept)


def _corners(ring: list[Point]) -> list[Point]:
    around = zip([ring[-1], *ring[:-1]], ring, [*ring[1:], ring[0]], strict=True)
    corners = [at for before, at, after in around if before[0] != after[0] and before[1] != after[1]]
    first = corners.index(min(corners))
    return corners[first:] + corners[:first]


def _area(ring: list[Point]) -> int:
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*ring, ring[0]]))


def _cracks(ring: list[Point]) -> Iterator[Point]:
    """The left ends of a ring's cracks above pixels."""
    for (x1, y), (x2, _) in pairwise([*ring, ring[0]]):
        yield from ((x, y) for x in range(x1, x2))


def _above(corner: Point, pixels: set[Point]) -> Point:
    """The upper end of the mask's pixels above a hole's first corner."""
    x, y = corner
    while (x, y - 1) in pixels:
        y -= 1
    return x, y


def _within(ring: list[Point], holes: dict[Point, list[list[Point]]]) -> Iterator[list[Point]]:
    for hole in holes[ring[0]]:
        yield hole
        yield from _within(hole, holes)


def _bridged(ring: list[Point], holes: dict[Point, list[list[Point]]], pixels: set[Point]) -> list[Point]:
    """A ring that visits the holes below its cracks on the way."""
    bridges = {_above(hole[0], pixels): hole for hole in holes[ring[0]]}
    out: list[Point] = []
    for (x1, y1), (x2, _) in pairwise([*ring, ring[0]]):
        out.append((x1, y1))
        for x in range(x1, x2):
            if (x, y1) in bridges:
                hole = bridges[x, y1]
                out += [*([(x, y1)] if out[-1] != (x, y1) else []), *_bridged(hole, holes, pixels), hole[0], (x, y1)]
    return out
