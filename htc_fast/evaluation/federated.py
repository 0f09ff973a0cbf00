"""LVIS: pictures that were not searched for every class. What nobody looked for does not count against a detector."""

from collections.abc import Sequence

import numpy as np

from htc_fast.errors import UserError
from htc_fast.evaluation.files import Asked
from htc_fast.evaluation.objects import Curves, Found, Truth
from htc_fast.evaluation.summary import mean

MAX_DETECTIONS = 300  # of a picture, whatever their classes
GROUPS = {"r": "AP_rare", "c": "AP_common", "f": "AP_frequent"}


def searched(truth: Truth, found: Found, asked: Asked, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Which detections count at all, and where what finds nothing does not.

    limit    detections of a picture, the best ones
    returns  [N] bool, of detections among those and of a class that their picture was searched for;
             numbers label * pictures + picture of what was not searched through
    """
    pictures = len(asked.images)
    negative = _numbers(asked, "neg_category_ids")
    there = np.union1d(truth.labels * pictures + truth.images, negative)
    order = np.lexsort((-found.scores, found.images))
    starts = np.searchsorted(found.images[order], found.images[order])
    best = np.empty(len(order), dtype=bool)
    best[order] = np.arange(len(order)) - starts < limit
    return best & np.isin(found.labels * pictures + found.images, there), _numbers(asked, "not_exhaustive_category_ids")


def by_frequency(drawn: Curves, asked: Asked) -> dict[str, float]:
    """AP of rare, common and frequent classes, as the truth's categories say which is which."""
    frequencies = np.array([str(one.get("frequency", "")) for one in asked.categories])
    if unknown := set(frequencies.tolist()) - set(GROUPS):
        raise UserError(
            f'federated: the truth\'s categories must each have a "frequency" r, c or f, got {sorted(unknown)[0]!r}.'
        )
    precision = drawn.precision[:, :, :, 0, -1]
    return {name: mean(precision[:, :, frequencies == letter]) for letter, name in GROUPS.items()}


def _numbers(asked: Asked, key: str) -> np.ndarray:
    """label * pictures + picture of the classes that each picture names there."""
    pictures, numbers = len(asked.images), []
    for n, picture in enumerate(asked.pictures):
        ids = picture.get(key)
        if not isinstance(ids, Sequence) or isinstance(ids, str):
            raise UserError(f"federated: the truth's image {picture['id']} has no list {key}, as LVIS files have.")
        numbers += [asked.classes[one] * pictures + n for one in ids if one in asked.classes]
    return np.array(numbers, dtype=np.int64)
