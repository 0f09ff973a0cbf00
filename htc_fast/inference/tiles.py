"""Large pictures as overlapping tiles, and what is found in them as objects of the picture; no whole mask is built.

Two tiles show what lies in their overlap alike, so one object is told from two by what both tiles say about it there:

* One that is whole in a tile is the one that counts, with that tile's mask; the same one in another tile goes.
* A piece, which ends where its tile ends, goes where it is a part of one that is whole in another tile.
* Other pieces belong to an object larger than the overlap: those that agree where both of their tiles see are joined.

What is of two classes, or found in one tile, is never brought together.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.data.windows import Windows
from htc_fast.errors import LONGEST_SIDE, UserError, check_count, shown

AGREE = 0.5  # two masks are of one object if they share more than this
FAINT = 0.5  # what has less than this share of a score says nothing about the other one
MARGIN = 0.01  # of a tile's side: a mask that ends so close to the border may be cut by it
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2
See = Callable[[int, Callable[[int], np.ndarray]], Iterator[tuple[int, Instances | UserError]]]


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    tile     side of a tile in pixels; a smaller picture is a single one
    overlap  share of a side that two neighbours have in common at least; 0: pieces are not joined
    raises   UserError for what is none
    """

    tile: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        check_count("--tile", self.tile, least=32, most=LONGEST_SIDE)
        number = isinstance(self.overlap, (int, float)) and not isinstance(self.overlap, bool)
        if not number or not 0 <= self.overlap <= 0.9:
            raise UserError(f"--overlap takes a share of the tile's side from 0 to 0.9, got {shown(self.overlap)}.")

    def starts(self, side: int) -> list[int]:
        """Where tiles begin along a side: as few as leave no gap, evenly spread, the last one at the end."""
        step = max(1, self.tile - round(self.overlap * self.tile))
        free = max(0, side - self.tile)
        count = -(-free // step) + 1
        return [round(free * place / max(count - 1, 1)) for place in range(count)]

    def grid(self, height: int, width: int) -> list[Rectangle]:
        """All tiles of a picture, row by row."""
        high, wide = min(self.tile, height), min(self.tile, width)
        return [(x, y, x + wide, y + high) for y in self.starts(height) for x in self.starts(width)]


class Bands:
    """number -> pixels of a tile, for the threads that read: tile by tile in their order, from one band of rows."""

    def __init__(self, picture: Windows, tiles: list[Rectangle]):
        self.picture, self.tiles, self.next = picture, tiles, 0
        self.turn, self.band, self.top = threading.Condition(), np.empty((0, 0, 3), np.uint8), -1

    def __call__(self, number: int) -> np.ndarray:
        x1, y1, x2, y2 = self.tiles[number]
        with self.turn:
            self.turn.wait_for(lambda: self.next == number)
            try:
                if self.top != y1:
                    self.band, self.top = np.empty((0, 0, 3), np.uint8), -1
                    self.band, self.top = self.picture.read(y1, y2), y1
                return self.band[:, x1:x2].copy()
            finally:
                self.next += 1
                self.turn.notify_all()


def detect(picture: Windows, tiling: Tiling, see: See, seen: Callable[[], object] = lambda: None) -> Instances:
    """Find the objects of a picture tile by tile.

    see      (number of tiles, number -> pixels of one) -> (number, what is in it), as `predict.stream` does
    seen     called after each tile
    returns  in pixels of the picture, best first; of a single tile, as they are
    raises   UserError where the picture turns out to be damaged
    """
    tiles = tiling.grid(*picture.size)
    across = len(tiling.starts(picture.size[1]))
    found: dict[int, Instances] = {}
    for number, one in see(len(tiles), Bands(picture, tiles)):
        if isinstance(one, UserError):
            raise one
        found[number] = one
        if (number + 1) % across == 0:
            # Small results that lie among the freed pixels of a row of tiles would keep that memory: side by side.
            found |= {k: found[k][:] for k in range(number + 1 - across, number + 1) if k in found}
        seen()
    whole = [found[number] for number in range(len(tiles))]
    return whole[0] if len(tiles) == 1 else join(whole, tiles, picture.size)


def join(found: list[Instances], tiles: list[Rectangle], size: tuple[int, int]) -> Instances:
    """What was found in overlapping tiles, each in its own pixels, as the objects of a picture of (height, width).

    returns  best first; of equal scores, in the order of the tiles
    """
    every = _Found(found, tiles, size)
    for first, second, shared in _neighbours(tiles):
        every.compare(first, second, shared)
    return every.objects()


def _neighbours(tiles: list[Rectangle]) -> Iterator[tuple[int, int, Rectangle]]:
    """Pairs of tiles that overlap, and where they do."""
    sides = np.array(tiles)
    for first in range(len(tiles)):
        low = np.maximum(sides[first, :2], sides[first + 1 :, :2])
        high = np.minimum(sides[first, 2:], sides[first + 1 :, 2:])
        for place in np.flatnonzero((low < high).all(axis=1)):
            yield first, int(first + 1 + place), (*low[place].tolist(), *high[place].tolist())


class _Found:
    """All detections of a picture's tiles, K of them, and which are of one object."""

    def __init__(self, found: list[Instances], tiles: list[Rectangle], size: tuple[int, int]):
        self.size, self.names = size, found[0].class_names
        self.rle: list[dict] = []
        boxes, extents, cut = [], [], []
        for one, (x1, y1, x2, y2) in zip(found, tiles, strict=True):
            tight = ops.rle_to_box(one.rle) if len(one) else torch.zeros(0, 4)
            cut.append(_at_border(one.boxes, (x1, y1, x2, y2), size) | _at_border(tight, (x1, y1, x2, y2), size))
            offset = torch.tensor([x1, y1, x1, y1])
            boxes.append(one.boxes + offset)
            extents.append(tight + offset)
            self.rle += ops.shift(one.rle, x1, y1, size) if len(one) else []
        self.boxes, self.extents, self.cut = torch.cat(boxes), torch.cat(extents), torch.cat(cut)
        self.scores = torch.cat([one.scores for one in found])
        self.labels = torch.cat([one.labels for one in found])
        certain = [one.mask_scores for one in found if one.mask_scores is not None]
        self.mask_scores = torch.cat(certain) if len(certain) == len(found) else None
        self.ends = np.cumsum([0, *map(len, found)]).tolist()
        # By detection: the same whole in other tiles; the pieces that are a part of it; the pieces that go on it.
        self.doubles: dict[int, list[int]] = {}
        self.parts: dict[int, list[int]] = {}
        self.ties: dict[int, list[int]] = {}

    def compare(self, first: int, second: int, shared: Rectangle) -> None:
        """Look at two tiles' detections where both tiles see."""
        a, b = self._inside(first, shared), self._inside(second, shared)
        if not len(a) or not len(b):
            return
        one, other = [self.rle[k] for k in a.tolist()], [self.rle[k] for k in b.tolist()]
        alike = self.labels[a][:, None] == self.labels[b]
        seen_one, seen_other = ops.crop(one, shared), ops.crop(other, shared)
        alike &= ~_strangers(torch.where(alike, ops.mask_iou(seen_one, seen_other), 0.0))
        whole_a, whole_b = ~self.cut[a][:, None], ~self.cut[b][None]
        overlap = alike & (ops.mask_iou(one, other) > AGREE)
        within_a, within_b = alike & (_part(one, other) > AGREE), alike & (_part(other, one).T > AGREE)
        self._note(self.doubles, a, b, overlap & whole_a & whole_b)
        self._note(self.doubles, b, a, (overlap & whole_a & whole_b).T)
        self._note(self.parts, a, b, within_b & whole_a & ~whole_b)
        self._note(self.parts, b, a, (within_a & ~whole_a & whole_b).T)
        if not (pieces := alike & ~whole_a & ~whole_b).any():
            return
        ties = pieces & (torch.maximum(_part(seen_one, seen_other), _part(seen_other, seen_one).T) > AGREE)
        self._note(self.ties, a, b, ties)
        self._note(self.ties, b, a, ties.T)

    def objects(self) -> Instances:
        """One detection for each object."""
        order = self.scores.argsort(descending=True, stable=True).tolist()
        scores, free = self.scores.tolist(), [True] * len(order)
        kept: list[list[int]] = []
        for k in order:
            if not self.cut[k] and free[k]:
                kept.append([k])
                free[k] = False
                gone = self.doubles.get(k, []), self.parts.get(k, [])
                for other in gone[0] + [one for one in gone[1] if scores[k] >= FAINT * scores[one]]:
                    free[other] = False
        for k in order:
            if free[k]:
                kept.append(self._grown(k, scores, free))
        kept.sort(key=lambda group: (-scores[group[0]], group[0]))
        return self._instances(kept)

    def _grown(self, leader: int, scores: list[float], free: list[bool]) -> list[int]:
        """The pieces that go on from one, and on from these; faint ones go, and add nothing."""
        group, waiting, free[leader] = [leader], [leader], False
        while waiting:
            for other in self.ties.get(waiting.pop(), []):
                if not free[other]:
                    continue
                free[other] = False
                if scores[other] >= FAINT * scores[leader]:
                    group.append(other)
                    waiting.append(other)
        return group

    def _instances(self, groups: list[list[int]]) -> Instances:
        first = torch.tensor([group[0] for group in groups], dtype=torch.int64)
        boxes = self.boxes[first]
        rle = [self.rle[group[0]] for group in groups]
        for place, group in enumerate(groups):
            if len(group) > 1:
                some = self.boxes[group]
                boxes[place] = torch.cat([some[:, :2].amin(0), some[:, 2:].amax(0)])
                rle[place] = ops.merge([self.rle[k] for k in group])
        certain = None if self.mask_scores is None else self.mask_scores[first]
        return Instances(boxes, self.scores[first], self.labels[first], rle, self.size, self.names, certain)

    def _inside(self, tile: int, shared: Rectangle) -> Tensor:
        """The detections of a tile whose masks may have pixels in a rectangle."""
        start, end = self.ends[tile], self.ends[tile + 1]
        x1, y1, x2, y2 = self.extents[start:end].unbind(1)
        return start + ((x1 < shared[2]) & (y1 < shared[3]) & (x2 > shared[0]) & (y2 > shared[1])).nonzero()[:, 0]

    def _note(self, where: dict[int, list[int]], a: Tensor, b: Tensor, which: Tensor) -> None:
        rows, columns = which.nonzero(as_tuple=True)
        for k, other in zip(a[rows].tolist(), b[columns].tolist()):
            where.setdefault(k, []).append(other)


def _part(masks: list[dict], others: list[dict]) -> Tensor:
    """How much of each mask [A] lies in each of the others [B]."""
    return ops.mask_iou(masks, others, torch.ones(len(others), dtype=torch.bool))


def _strangers(agreement: Tensor) -> Tensor:
    """Which pairs [A, B] are of two objects, by their IoU where both tiles see: each has its own in the other tile.

    That one differs from it by less than half as much. So objects of a class that cross or hold each other stay apart.
    """
    best = torch.minimum(agreement.amax(dim=1, keepdim=True), agreement.amax(dim=0, keepdim=True))
    return 1 - best < (1 - agreement) / 2


def _at_border(boxes: Tensor, tile: Rectangle, size: tuple[int, int]) -> Tensor:
    """Which boxes [K, 4], in pixels of the tile, end where it does and the picture does not: bool [K]."""
    x1, y1, x2, y2 = tile
    across, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    near = [boxes[:, 0] <= across, boxes[:, 1] <= down, boxes[:, 2] >= x2 - x1 - across, boxes[:, 3] >= y2 - y1 - down]
    inner = [x1 > 0, y1 > 0, x2 < size[1], y2 < size[0]]
    return torch.stack([one & flag for one, flag in zip(near, inner)]).any(dim=0)
