"""Whether scores can be believed, and at which score a detector does best."""

from dataclasses import dataclass

import numpy as np

from htc_fast.evaluation.errors import Judged

BINS = 10
UNKNOWN = 0.5  # the threshold where no detection is right


@dataclass(frozen=True)
class Operating:
    """The score from which on detections are taken, and what they are worth then: 0 to 1 each."""

    threshold: float
    precision: float
    recall: float
    f1: float


def best_threshold(judged: Judged) -> Operating:
    """The score that maximises F1 = 2 right / (detections + truths) over all classes; the lowest of equally good ones.

    returns  threshold 0.5 and zeros where no detection is right
    """
    if not judged.truths or not judged.right.any():
        return Operating(UNKNOWN, 0.0, 0.0, 0.0)
    order = np.argsort(-judged.scores, kind="stable")
    scores, right = judged.scores[order], np.cumsum(judged.right[order])
    taken = np.arange(1, len(scores) + 1)
    f1 = 2 * right / (taken + judged.truths)
    f1[:-1][scores[1:] == scores[:-1]] = -1  # equal scores are taken together
    best = len(f1) - 1 - int(f1[::-1].argmax())
    threshold, precision, recall = scores[best], right[best] / taken[best], right[best] / judged.truths
    return Operating(float(threshold), float(precision), float(recall), float(f1[best]))


@dataclass(frozen=True)
class Bin:
    """Detections of scores from low to high: how many, their mean score, which share of them is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """Bins of equal width that hold detections, and the expected calibration error.

    error  |mean score - share that is right| of the bins, weighted with their detections; 0 without any
    source  Guo et al., On Calibration of Modern Neural Networks, 2017, section 2
    """

    bins: tuple[Bin, ...]
    error: float


def calibration(judged: Judged, least: float = 0.0, bins: int = BINS) -> Calibration:
    """Compare scores with how often detections are right, of detections that score at least `least`."""
    kept = judged.scores >= least
    scores, right = judged.scores[kept], judged.right[kept]
    # Scores are of single precision, in which 0.7 is a little less.
    places = np.minimum((scores.round(6) * bins).astype(np.int64), bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            values = float(scores[inside].mean()), float(right[inside].mean())
            found.append(Bin(place / bins, (place + 1) / bins, int(inside.sum()), *values))
    error = sum(one.count * abs(one.score - one.right) for one in found) / max(len(scores), 1)
    return Calibration(tuple(found), float(error))
