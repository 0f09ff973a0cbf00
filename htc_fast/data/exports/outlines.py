"""Masks as outlines: along the edges of their pixels, or with fewer corners, for people who move them by hand."""

from collections.abc import Iterator, Sequence

import numpy as np

from htc_fast.data import runs
from htc_fast.errors import check_number


def polygons(rles: Sequence[dict], tolerance: float = 0.0) -> list[list[np.ndarray]]:
    """The pieces of each mask, where an outline goes to its holes and back on one way.

    tolerance  pixels that an outline may leave the pixels' edges, to have fewer corners; 0: it follows them
    returns    per mask its pieces, each [P, 2] x, y; none for a mask without pixels
    raises     UserError if the tolerance is no number of at least 0
    """
    if not check_number("tolerance", tolerance, zero=True):
        return [[np.array(piece).reshape(-1, 2) for piece in mask] for mask in runs.outlines(rles, "bridged")]
    masks = runs.outlines(rles, "separate")
    rings = [np.array(ring) for mask in masks for piece in mask for ring in _rings(piece)]
    plain = iter(simplified(rings, tolerance))
    return [[joined([next(plain) for _ in _rings(piece)]) for piece in mask] for mask in masks]


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Several rings as one: from the corner nearest to a ring's first to that, around it, and back on the same way."""
    whole, *others = rings
    for ring in others:
        near = int(((whole - ring[0]) ** 2).sum(axis=1).argmin())
        whole = np.concatenate([whole[: near + 1], ring, ring[:1], whole[near:]])
    return whole


def simplified(rings: Sequence[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Rings with fewer of their corners, each [P, 2]; as it is where less than a triangle would be left.

    source  Douglas and Peucker, 1973, from the first corner and that farthest from it; all spans of all rings at once
    """
    if not rings:
        return []
    # Closed by their first corners, one after another; a span is what lies between two corners that are kept.
    points = np.concatenate([one for ring in rings for one in (ring, ring[:1])]).astype(float)
    ends = np.cumsum([len(ring) + 1 for ring in rings])
    kept = np.zeros(len(points), dtype=bool)
    kept[ends - 1] = kept[ends[:-1]] = kept[0] = True
    first = np.cumsum(kept) - 1
    away = np.hypot(*(points - points[np.flatnonzero(kept)[first]]).T)
    while len(corners := _farthest(away, kept, tolerance)):
        kept[corners] = True
        away = _distances(points, kept)
    parts = zip(rings, np.split(kept, ends[:-1]), strict=True)
    return [_at_least_a_triangle(ring, ring[mask[:-1]]) for ring, mask in parts]


def _farthest(away: np.ndarray, kept: np.ndarray, tolerance: float) -> np.ndarray:
    """In every span the first of its corners that are farthest away, if that is beyond the tolerance."""
    most = np.maximum.reduceat(away, np.flatnonzero(kept))
    span = np.cumsum(kept) - 1
    corners = np.flatnonzero((away == most[span]) & (away > tolerance))
    return corners[np.unique(span[corners], return_index=True)[1]]


def _distances(points: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """From each point to its span, the line between the kept points around it; 0 for these themselves."""
    places, span = np.flatnonzero(kept), np.cumsum(kept) - 1
    begin, along = points[places][span], np.diff(points[places], axis=0, append=0)[span]
    from_begin = points - begin
    share = np.clip((from_begin * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1), 0, 1)
    return np.where(kept, 0, np.hypot(*(from_begin - share[:, None] * along).T))


def _at_least_a_triangle(ring: np.ndarray, corners: np.ndarray) -> np.ndarray:
    x, y = corners.T
    return corners if len(corners) > 2 and x @ np.roll(y, -1) != y @ np.roll(x, -1) else ring


def _rings(piece: dict) -> Iterator[list]:
    yield piece["outer"]
    yield from piece["holes"]
