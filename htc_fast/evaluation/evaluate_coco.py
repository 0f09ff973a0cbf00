"""COCO's average precision of any detector's results, from files or Python objects."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from htc_fast.errors import UserError, check_count, choose, shown
from htc_fast.evaluation import federated as lvis
from htc_fast.evaluation.files import asked_of, truth_content, truth_of
from htc_fast.evaluation.objects import OVERLAPS, Curves, Found, curves
from htc_fast.evaluation.results import Results, found_of, results_of
from htc_fast.evaluation.summary import MAX_DETECTIONS, PREFIXES, by_class, summary


@dataclass
class Scores:
    """What an evaluation gives; -1 where nothing was there to be found, as pycocotools says it.

    metrics    box_AP, box_AP50, box_AP75, box_AP_small, ..., box_AR1, box_AR10, box_AR100, ..., mask_AR_large, each 0
               to 1; classes without truth do not count
    per_class  class name -> {"box_AP", "box_AP50", "mask_AP", "mask_AP50"}
    curves     "bbox", "segm" -> COCOeval's arrays precision, recall and scores
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: dict[str, Curves] = field(default_factory=dict, repr=False)

    def add(self, kind: str, drawn: Curves, names: Sequence[str]) -> None:
        """Take in the curves of one more kind, for classes of these names."""
        prefix = PREFIXES[kind]
        self.curves[kind] = drawn
        self.metrics.update({f"{prefix}_{name}": value for name, value in summary(drawn).items()})
        for name, values in by_class(drawn, names).items():
            self.per_class.setdefault(name, {}).update({f"{prefix}_{key}": one for key, one in values.items()})


def evaluate_coco(
    truth: Any,
    results: Any,
    *,
    kinds: str | Sequence[str] | None = None,
    max_detections: int | Sequence[int] | None = None,
    box_areas: bool | None = None,
    images: Sequence[Any] | None = None,
    classes: Sequence[Any] | None = None,
    federated: bool = False,
) -> Scores:
    """What COCOeval gives for results, to the last digit; LVIS's rules where federated.

    truth           a COCO annotation file, what json.load gives of one, or a pycocotools COCO
    results         a COCO results file, a list of its dicts, or an array [N, 7] of image id, x, y, w, h, score, class
    kinds           "bbox", "segm", "boundary" (Boundary IoU), one or several; None: boxes, and masks if there are any
    max_detections  that count in a picture and class: 100 is 1, 10, 100; or several. Federated: in a picture, 300
    box_areas       small, medium, large by the area of boxes; None: as pycocotools does, where the results have boxes
    images, classes  ids of those that count; None: all
    returns         Scores with box_AP, ..., mask_AP, ..., boundary_AP, ..., and the curves of each kind
    raises          UserError for what is no truth, no result, or not of one data set
    source          COCOeval, lvis-api; Cheng et al., Boundary IoU, 2021
    """
    for name, one in (("box_areas", box_areas), ("federated", federated)):
        if not isinstance(one, bool) and not (one is None and name == "box_areas"):
            raise UserError(f"{name} takes True or False, got {shown(one)}.")
    with _uncollected():
        content, given = truth_content(truth), results_of(results)
        wanted, limits = _kinds(kinds, content, given), _limits(max_detections, federated)
        asked = asked_of(content, images, classes)
        wants = {"masks": wanted != ["bbox"], "boxes": "bbox" in wanted}
        told = truth_of(content, asked, **wants, crowds=not federated)
        found, lenient = found_of(given, asked, **wants, box_areas=box_areas), None
        del content, given
    if federated:
        counted, lenient = lvis.searched(told, found, asked, limits[-1])
        found = _chosen(found, counted)
    scores = Scores({}, {name: {} for name in asked.names})
    for kind in wanted:
        drawn = curves(kind, told, found, len(asked.images), len(asked.classes), limits, lenient)
        scores.add(kind, drawn, asked.names)
        if federated:
            more = lvis.by_frequency(drawn, asked)
            scores.metrics.update({f"{PREFIXES[kind]}_{name}": value for name, value in more.items()})
    return scores


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """While a file becomes a million objects nothing of it is garbage, and looking for that takes half the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _chosen(found: Found, counted: np.ndarray) -> Found:
    """Detections among which only some count: the others have no label."""
    return replace(found, labels=np.where(counted, found.labels, -1))


def _kinds(kinds: Any, content: dict[str, Any], results: Results) -> list[str]:
    if kinds is None:
        drawn = results.segmentations is not None
        if not len(results):
            drawn = bool(content["annotations"]) and "segmentation" in content["annotations"][0]
        return ["bbox", "segm"] if drawn else ["bbox"]
    plain = isinstance(kinds, (list, tuple)) and all(isinstance(one, str) for one in kinds)
    if not (plain or isinstance(kinds, str)) or not kinds:
        raise UserError(f"kinds takes {', '.join(OVERLAPS)}, one or several, got {shown(kinds)}.")
    return [choose(one, OVERLAPS, "kind") for one in ([kinds] if isinstance(kinds, str) else dict.fromkeys(kinds))]


def _limits(given: Any, federated: bool) -> list[int]:
    if federated:
        return [check_count("max_detections", lvis.MAX_DETECTIONS if given is None else given)]
    if isinstance(given, (list, tuple)):
        if not given:
            raise UserError("max_detections takes a number, or several in a list, got none.")
        return sorted(check_count("max_detections", one) for one in given)
    limit = check_count("max_detections", MAX_DETECTIONS if given is None else given)
    return [1, min(10, limit), limit]
