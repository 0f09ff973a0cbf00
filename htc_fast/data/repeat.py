"""Repeat-factor sampling: pictures of rare classes come more often than once an epoch."""

import math
from collections import Counter
from collections.abc import Iterable

from htc_fast.data.coco import CocoDataset
from htc_fast.errors import say_once


def repeat_factors(dataset: CocoDataset, threshold: float) -> list[float]:
    """How often each sample of a data set is to come in an epoch: 1 or more; see `factors`. Says what that makes."""
    pictures = (dataset.picture(index) for index in range(len(dataset)))
    found = factors([{item.label for item in one.annotations if item.trainable} for one in pictures], threshold)
    more = sum(factor > 1 for factor in found)
    says = f"{more} of {len(found)} pictures come more often, which makes an epoch {sum(found) / len(found):.3g} times"
    none = f"no class is in less than a share of {threshold:g} of the pictures, so none is repeated"
    say_once(f"{dataset.path.name}: {f'{says} as long' if more else none} (--repeat {threshold:g}).")
    return found


def factors(labels: Iterable[set[int]], threshold: float) -> list[float]:
    """How often each picture is to come: as its rarest class asks for.

    labels     classes that each picture has
    threshold  t; a class that a share f of the pictures has asks for max(1, sqrt(t / f))
    returns    the largest of a picture's classes; 1 without any
    source     LVIS (CVPR 2019), appendix B
    """
    labels = list(labels)
    counts = Counter(label for one in labels for label in one)
    wanted = {label: max(1.0, math.sqrt(threshold * len(labels) / count)) for label, count in counts.items()}
    return [max((wanted[label] for label in one), default=1.0) for one in labels]
