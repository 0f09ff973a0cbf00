"""The native steps of a COCO evaluation: masks measured, detections matched with the truth, curves drawn.

csrc/evaluation.h says what each takes; everything lies on the CPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from htc_fast.ops import _backend, _native
from htc_fast.ops._declare import declare
from htc_fast.ops._rle import Texts
from htc_fast.ops.reference import evaluation as reference

OVERLAPS = ("boxes", "masks", "boundaries")


class Cells(NamedTuple):
    """Detections or truths, cell by cell (a class in a picture); detections of a cell best first."""

    order: Tensor  # [D] int64: their numbers
    ends: Tensor  # [cells + 1] int64: where each cell begins in `order`
    boxes: Tensor  # [N, 4] float64: x, y, w, h
    areas: Tensor  # [N] float64: as ranges of size take them
    pixels: Tensor  # [N] float64: as overlaps of masks take them
    text: Tensor
    offsets: Tensor
    sizes: Tensor


class Rules(NamedTuple):
    """What is matched how."""

    by: str  # one of OVERLAPS
    boundary: float  # width of a boundary in diagonals of the picture
    crowd: Tensor  # [truths] uint8: found any number of times, never counts
    ignored: Tensor  # [truths] uint8: never counts
    lenient: Tensor  # [cells] uint8: what finds nothing there does not count
    ranges: Tensor  # [A, 2] float64: least and largest area
    thresholds: Tensor  # [T] float64: at most 16


def read_results(json: Tensor) -> list[Tensor]:
    """A results file's bytes as columns: images, classes, scores, boxes [4 N], and Texts; none where it is not plain.

    Plain are whole numbers for ids, compressed masks in all results or in none; csrc/evaluation.h has the rest.
    """
    return [] if _reference() else torch.ops.htc_fast.read_results(json)


def measure_masks(masks: Texts) -> tuple[Tensor, Tensor, Tensor]:
    """[K] areas and [K, 4] boxes (x, y, w, h) in pixels, float64; [K] faults, 0 where all is well (see _rle.FAULTS)."""
    if _reference():
        return reference.measure_masks(*masks)
    return torch.ops.htc_fast.measure_masks(*masks)


def match_detections(rules: Rules, found: Cells, truth: Cells) -> tuple[Tensor, Tensor]:
    """[D, A] int16 each, a bit per threshold: whether a detection matched, and whether it does not count."""
    if _reference():
        return reference.match_detections(rules, found, truth)
    by, rest = OVERLAPS.index(rules.by), rules[2:]
    return torch.ops.htc_fast.match_detections(by, rules.boundary, list(found), list(truth), *rest)


def precision_curves(
    ends: Tensor,
    ranks: Tensor,
    scores: Tensor,
    matched: Tensor,
    uncounted: Tensor,
    truths: Tensor,
    recalls: Tensor,
    most: Tensor,
    thresholds: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """COCOeval's precision [T, R, K, A, M], recall [T, K, A, M] and scores [T, R, K, A, M], float64.

    ends     [K + 1]  where each class's detections begin;  ranks, scores: [D] theirs, ranks within a cell
    matched  [D, A] and uncounted: of `match_detections`;  truths: [K, A] that count
    recalls  [R] float64;  most: [M] int64, detections per cell
    """
    given = (ends, ranks, scores, matched, uncounted, truths, recalls, most, thresholds)
    return reference.precision_curves(*given) if _reference() else torch.ops.htc_fast.precision_curves(*given)


def _reference() -> bool:
    if _backend.forced_backend() == "reference":
        return True
    _native.require()
    return False


def _fake_columns(json):
    count, letters = (torch.library.get_ctx().new_dynamic_size() for _ in range(2))
    whole, real = (json.new_empty(count, dtype=one) for one in (torch.int64, torch.float64))
    return [
        whole,
        whole.clone(),
        real,
        real.new_empty(4 * count),
        json.new_empty(letters),
        whole.clone(),
        whole.clone(),
    ]


def _fake_measures(text, offsets, sizes):
    count = sizes.shape[0]
    areas = sizes.new_empty(count, dtype=torch.float64)
    return areas, areas.new_empty(count, 4), sizes.new_empty(count, dtype=torch.uint8)


def _fake_matches(by, boundary, found, truth, crowd, ignored, lenient, ranges, thresholds):
    bits = ranges.new_empty(found[0].shape[0], ranges.shape[0], dtype=torch.int16)
    return bits, torch.empty_like(bits)


def _fake_curves(ends, ranks, scores, matched, uncounted, truths, recalls, most, thresholds):
    sides = (*truths.shape, most.shape[0])  # classes, ranges, limits
    curve = recalls.new_empty(thresholds, recalls.shape[0], *sides)
    return curve, recalls.new_empty(thresholds, *sides), torch.empty_like(curve)


declare("read_results(Tensor json) -> Tensor[]", _fake_columns)
declare("measure_masks(Tensor text, Tensor offsets, Tensor sizes) -> (Tensor, Tensor, Tensor)", _fake_measures)
declare(
    "match_detections(int by, float boundary, Tensor[] found, Tensor[] truth, Tensor crowd, Tensor ignored, "
    "Tensor lenient, Tensor ranges, Tensor thresholds) -> (Tensor, Tensor)",
    _fake_matches,
)
declare(
    "precision_curves(Tensor ends, Tensor ranks, Tensor scores, Tensor matched, Tensor uncounted, Tensor truths, "
    "Tensor recalls, Tensor most, int thresholds) -> (Tensor, Tensor, Tensor)",
    _fake_curves,
)
