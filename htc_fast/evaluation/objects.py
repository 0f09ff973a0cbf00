"""Truth and detections as packed arrays, and what is matched of them: COCOeval's curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from htc_fast.ops import _evaluation
from htc_fast.ops._rle import Texts

OVERLAPS = {"bbox": "boxes", "segm": "masks", "boundary": "boundaries"}
# COCO's: pixels of all, small, medium and large objects; IoUs; recalls.
RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], dtype=np.float64)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
BOUNDARY = 0.02  # of a picture's diagonal: Boundary IoU, section 4


@dataclass
class Masks:
    """K masks as strings, with what they measure.

    pixels  [K] float64;  boxes: [K, 4] float64, x, y, w, h
    """

    texts: Texts
    pixels: np.ndarray
    boxes: np.ndarray


@dataclass
class Objects:
    """N objects in the order of their file.

    images  [N] int64, from 0 in the order in which pictures count;  labels: [N] int64, from 0; -1 counts nowhere
    areas   [N] float64, for the ranges of size
    boxes   [N, 4] float64, x, y, w, h;  masks: theirs; None where nothing asks for them
    """

    images: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray | None
    masks: Masks | None

    def placed(self, kind: str) -> tuple[np.ndarray, np.ndarray, Texts]:
        """Boxes, pixels and strings of a kind: boxes need no strings, masks are looked for by the boxes around them."""
        if kind != "bbox":
            assert self.masks is not None
            return self.masks.boxes, self.masks.pixels, self.masks.texts
        assert self.boxes is not None
        none = Texts(torch.empty(0, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), torch.zeros(0, 2).long())
        return self.boxes, self.areas, none


@dataclass
class Truth(Objects):
    """crowd: [N] uint8, may be found many times and never counts;  ignored: [N] uint8, never counts."""

    crowd: np.ndarray
    ignored: np.ndarray


@dataclass
class Found(Objects):
    """scores: [N] float64, none of them NaN."""

    scores: np.ndarray


@dataclass
class Curves:
    """What COCOeval keeps of a kind; -1 where no truth counts.

    precision  [T, R, K, A, M] at 10 IoUs, 101 recalls, for K classes, 4 ranges of size, M limits of detections
    recall     [T, K, A, M];  scores: [T, R, K, A, M], of the detection that reaches a recall
    limits     [M] detections per picture and class
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    limits: list[int]


def curves(
    kind: str,
    truth: Truth,
    found: Found,
    pictures: int,
    classes: int,
    limits: Sequence[int],
    lenient: np.ndarray | None = None,
) -> Curves:
    """Match detections with the truth and draw the curves.

    kind     "bbox", "segm" or "boundary"
    limits   detections that count per picture and class, ascending
    lenient  numbers label * pictures + image of what is not searched through: what finds nothing there does not count
    """
    numbers, told = (np.where(one.labels < 0, -1, one.labels * pictures + one.images) for one in (found, truth))
    order = np.lexsort((-found.scores, numbers))
    numbers_found = numbers[order]
    ranks = _ranks(numbers_found)
    kept = (ranks < limits[-1]) & (numbers_found >= 0)
    order, numbers_found, ranks = order[kept], numbers_found[kept], ranks[kept]
    order_truth = np.argsort(told, kind="stable")
    used, forgiven = (np.zeros(classes * pictures, dtype=bool) for _ in range(2))
    used[numbers_found] = used[told] = True
    forgiven[[] if lenient is None else lenient] = True
    cells = np.flatnonzero(used)
    rules = _evaluation.Rules(
        OVERLAPS[kind],
        BOUNDARY,
        torch.from_numpy(truth.crowd),
        torch.from_numpy(truth.ignored),
        *map(torch.from_numpy, (forgiven[cells].astype(np.uint8), RANGES, THRESHOLDS)),
    )
    matched, uncounted = _evaluation.match_detections(
        rules,
        _cells(found, kind, order, numbers_found, cells),
        _cells(truth, kind, order_truth, told[order_truth], cells),
    )
    ends = np.searchsorted(numbers_found, np.arange(classes + 1) * pictures)
    drawn = _evaluation.precision_curves(
        torch.from_numpy(ends),
        torch.from_numpy(ranks),
        torch.from_numpy(found.scores[order]),
        matched,
        uncounted,
        torch.from_numpy(_counted(truth, classes)),
        torch.from_numpy(RECALL_THRESHOLDS),
        torch.tensor(limits, dtype=torch.int64),
        len(THRESHOLDS),
    )
    precision, recall, scores = (one.numpy() for one in drawn)
    return Curves(precision, recall, scores, list(limits))


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Places of equal neighbours, each from 0."""
    places = np.arange(len(numbers))
    first = np.ones(len(numbers), dtype=bool)
    first[1:] = numbers[1:] != numbers[:-1]
    return places - np.maximum.accumulate(np.where(first, places, 0))


def _cells(objects: Objects, kind: str, order: np.ndarray, numbers: np.ndarray, cells: np.ndarray) -> _evaluation.Cells:
    boxes, pixels, texts = objects.placed(kind)
    ends = np.append(np.searchsorted(numbers, cells), len(numbers))
    arrays = [np.ascontiguousarray(one) for one in (order, ends, boxes, objects.areas, pixels)]
    return _evaluation.Cells._make((*map(torch.from_numpy, arrays), *texts))


def _counted(truth: Truth, classes: int) -> np.ndarray:
    """[K, A] int64, truths that count."""
    inside = (truth.areas[:, None] >= RANGES[:, 0]) & (truth.areas[:, None] <= RANGES[:, 1])
    inside &= truth.ignored[:, None] == 0
    return np.stack([np.bincount(truth.labels[one], minlength=classes) for one in inside.T], axis=1)
