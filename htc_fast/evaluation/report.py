"""All numbers of an evaluation in one dictionary: what a page shows, as JSON."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from htc_fast.data.coco import CocoDataset
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError
from htc_fast.evaluation import coco
from htc_fast.evaluation.calibration import best_threshold, calibration
from htc_fast.evaluation.errors import BACKGROUND, KINDS, Error, Errors, find_errors, judge
from htc_fast.evaluation.evaluate_coco import Scores
from htc_fast.evaluation.objects import RECALL_THRESHOLDS
from htc_fast.evaluation.summary import MAX_DETECTIONS, NAMES, mean

KINDS_OF_AP = {"mask": "segm", "box": "bbox"}
LEVELS = ("0.5", "0.75", "0.5:0.95")  # IoU
LISTED = 50  # errors of a kind, the worst
DRAWN = 20  # classes with curves of their own, those with most objects


@dataclass
class Report:
    """An evaluation that is understood.

    numbers  what report.json holds; AP and shares 0 to 1, -1 where there was nothing to find
    errors   all of them;  dataset: with the labels of `found`, the predictions that errors are about
    """

    numbers: dict[str, Any]
    errors: Errors
    dataset: CocoDataset
    found: dict[int, Instances]


def report(
    dataset: CocoDataset,
    found: dict[int, Instances],
    scores: dict[str, Scores],
    max_detections: int = MAX_DETECTIONS,
) -> Report:
    """Numbers and errors of predictions.

    found   sample index -> predictions, those of the last of `scores`
    scores  "stage 1", ..., "ensemble" -> AP; curves, calibration and errors are of the last
    raises  UserError if the data set has no annotations, or none of the predictions' classes
    """
    dataset = coco.in_classes_of(dataset, found)
    if not scores:
        raise UserError('a report needs scores: give at least {"ensemble": coco.score(dataset, found)}.')
    name, last = list(scores.items())[-1]
    judged = judge(dataset, found, max_detections)
    operating = best_threshold(judged)
    errors = find_errors(dataset, found, operating.threshold, max_detections)
    objects = Counter(label for index in found for label in dataset.truth(index).labels.tolist())
    counts = [objects[label] for label in range(len(dataset.classes))]
    kept = calibration(judged, operating.threshold)
    numbers = {
        "data": dataset.path.name,
        "of": name,
        "pictures": len(found),
        "objects": sum(counts),
        "detections": len(judged.scores),
        "stages": {one: {"metrics": each.metrics, "per_class": each.per_class} for one, each in scores.items()},
        "classes": _classes(dataset, counts, last),
        "curves": _curves(dataset, counts, last),
        "operating": asdict(operating),
        "calibration": {**asdict(calibration(judged)), "error_from_threshold": kept.error},
        "confusion": _confusion(dataset, errors),
        "errors": {kind: _errors(dataset, errors, kind) for kind in KINDS},
    }
    return Report(numbers, errors, dataset, found)


def _classes(dataset: CocoDataset, counts: list[int], scores: Scores) -> dict[str, dict[str, float]]:
    """Class -> objects, and AP of boxes and masks as in `NAMES`."""
    found: dict[str, dict[str, float]] = {}
    for label, name in enumerate(dataset.classes):
        found[name] = {"objects": counts[label]}
        for prefix, kind in KINDS_OF_AP.items():
            # [IoUs, recalls, sizes] of the class, with all detections that count.
            drawn = scores.curves[kind].precision[:, :, label, :, -1]
            parts = [drawn[..., 0], drawn[0, :, 0], drawn[5, :, 0], *(drawn[..., size] for size in (1, 2, 3))]
            found[name] |= {f"{prefix}_{key}": mean(part) for key, part in zip(NAMES, parts)}
    return found


def _curves(dataset: CocoDataset, counts: list[int], scores: Scores) -> dict[str, Any]:
    """Precision at each recall: "mask", "box" -> IoU -> class, or None for the mean of all -> 101 numbers."""
    most = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])[:DRAWN]
    found: dict[str, Any] = {"recall": RECALL_THRESHOLDS.round(2).tolist(), "classes": [], "mean": {}}
    found["classes"] = [{"class": dataset.classes[label]} for label in sorted(most)]
    for prefix, kind in KINDS_OF_AP.items():
        precision = scores.curves[kind].precision[:, :, :, 0, -1]
        precision = precision[:, :, (precision > -1).all(axis=(0, 1))]  # classes that have truth
        levels = _levels(precision)
        if precision.shape[2]:
            found["mean"][prefix] = {level: _short(one.mean(axis=1)) for level, one in levels.items()}
        own = _levels(scores.curves[kind].precision[:, :, sorted(most), 0, -1])
        for place, entry in enumerate(found["classes"]):
            entry[prefix] = {level: _short(one[:, place]) for level, one in own.items()}
    return found


def _levels(precision: np.ndarray) -> dict[str, np.ndarray]:
    """[10 IoUs, recalls, classes] -> [recalls, classes] each."""
    return dict(zip(LEVELS, (precision[0], precision[5], precision.mean(axis=0))))


def _short(values: np.ndarray) -> list[float]:
    return values.round(4).tolist()


def _confusion(dataset: CocoDataset, errors: Errors) -> list[dict[str, Any]]:
    """How often a truth is taken for a class, null: background; the most frequent first."""
    return [
        {"truth": _name(dataset, truth), "found": _name(dataset, label), "count": count}
        for (truth, label), count in errors.confusion.most_common()
    ]


def _name(dataset: CocoDataset, label: int) -> str | None:
    return None if label == BACKGROUND else dataset.classes[label]


def _errors(dataset: CocoDataset, errors: Errors, kind: str) -> dict[str, Any]:
    return {"count": errors.count(kind), "worst": [_error(dataset, one) for one in errors.worst(kind, LISTED)]}


def _error(dataset: CocoDataset, error: Error) -> dict[str, Any]:
    """Where to find it: the file's own name and id, and the numbers of detection and truth, best and first 0."""
    picture = dataset.picture(error.index)
    return {"file_name": picture.file_name, "image_id": picture.id, **asdict(error)}
