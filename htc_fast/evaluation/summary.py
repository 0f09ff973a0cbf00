"""The numbers that pycocotools prints, of curves."""

from collections.abc import Sequence

import numpy as np

from htc_fast.evaluation.objects import Curves

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")  # with as many detections as here:
MAX_DETECTIONS = 100  # COCO's protocol: the best of a picture's detections of a class
PREFIXES = {"bbox": "box", "segm": "mask", "boundary": "boundary"}


def summary(drawn: Curves) -> dict[str, float]:
    """Twelve numbers, or as many as there are limits of detections; the largest limit counts for precision."""
    # [IoU thresholds 0.5 to 0.95, recalls, classes, areas, detection limits] and the same without recalls.
    precision, recall = drawn.precision, drawn.recall
    parts = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    parts += [precision[..., area, -1] for area in (1, 2, 3)]
    found = dict(zip(NAMES, map(mean, parts)))
    found |= {f"AR{limit}": mean(recall[:, :, 0, place]) for place, limit in enumerate(drawn.limits)}
    return found | {name: mean(recall[:, :, area, -1]) for area, name in enumerate(RECALLS[3:], start=1)}


def by_class(drawn: Curves, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Class name -> AP and AP50, of all sizes and the largest limit."""
    precision = drawn.precision[:, :, :, 0, -1]
    return {name: {"AP": mean(precision[:, :, n]), "AP50": mean(precision[0, :, n])} for n, name in enumerate(names)}


def mean(values: np.ndarray) -> float:
    """Of what is not -1; -1 where nothing is."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
