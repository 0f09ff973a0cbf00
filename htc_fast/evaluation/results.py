"""COCO results as columns: of a file by a reader of our own, of dicts or an array one by one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htc_fast.errors import MOST, UserError, few, short, shown
from htc_fast.evaluation.columns import boxes_of, numbers
from htc_fast.evaluation.files import Asked, loaded
from htc_fast.evaluation.mask_texts import masks_of
from htc_fast.evaluation.objects import Found, Masks
from htc_fast.ops import _evaluation
from htc_fast.ops._rle import Texts


@dataclass
class Results:
    """N results.

    images, classes  ids, an array of whole numbers or a list of anything
    scores           numbers;  boxes: [N, 4] or a list, empty where the first result has none
    segmentations    None where the first result has none
    """

    images: np.ndarray | list
    classes: np.ndarray | list
    scores: np.ndarray | list
    boxes: np.ndarray | list
    segmentations: Texts | list | None

    def __len__(self) -> int:
        return len(self.scores)


def results_of(results: Any) -> Results:
    """Of a results file, a list of its dicts, or an array whose rows are image id, x, y, w, h, score, class.

    raises  UserError for what is none of these
    """
    if isinstance(results, (str, os.PathLike)):
        return _of_file(results)
    if isinstance(results, np.ndarray):
        if results.ndim != 2 or results.shape[1] != 7:
            raise UserError(
                f"an array of results has rows image id, x, y, w, h, score, class: [N, 7], got {list(results.shape)}."
            )
        return _of_array(results)
    if not isinstance(results, (list, tuple)):
        raise UserError(f"results must be a COCO results file or a list of its dicts, got {shown(results)}.")
    return _of_dicts(results)


def _of_array(results: np.ndarray) -> Results:
    try:
        plain = results.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"an array of results must be of numbers, got {results.dtype}.") from None
    ids = plain[:, [0, 6]]
    if wrong := np.flatnonzero(~(np.isfinite(ids) & (ids == np.floor(ids)) & (abs(ids) < 2**53)).all(axis=1)).tolist():
        raise UserError(f"{named(wrong[0])} must have ids that are whole numbers, got {ids[wrong[0]].tolist()}.")
    images, classes = ids.T.astype(np.int64)
    return Results(images, classes, plain[:, 5], plain[:, 1:5], None)


def _of_file(path: Any) -> Results:
    if Path(path).is_file() and os.path.getsize(path):
        # Written to nowhere, but torch has no tensors that cannot be written to.
        found = _evaluation.read_results(torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c")))
        # Sizes that no picture has are told of one by one.
        if found and len(found[5]) and not ((found[6] < 0) | (found[6] > MOST)).any():
            images, classes, scores, boxes = (one.numpy() for one in found[:4])
            texts = Texts(found[4], found[5], found[6].reshape(-1, 2))
            return Results(images, classes, scores, boxes.reshape(-1, 4), texts if len(texts.sizes) else None)
    content = loaded(path, "results")
    if not isinstance(content, list):
        raise UserError(f"results: {path} must hold a list of dicts, as COCO results do.")
    return _of_dicts(content)


def _of_dicts(results: Sequence[Any]) -> Results:
    try:
        first: Any = results[0] if results else {}
        images, classes, scores = ([one[key] for one in results] for key in ("image_id", "category_id", "score"))
        boxes = [one["bbox"] for one in results] if _given(first.get("bbox")) else []
        drawn = [one["segmentation"] for one in results] if "segmentation" in first else None
    except (TypeError, KeyError, AttributeError, IndexError):
        for n, one in enumerate(results):
            if not isinstance(one, dict):
                raise UserError(f"results[{n}] must be a dict such as COCO results have, got {short(one)}.") from None
            wanted = ["image_id", "category_id", "score"]
            wanted += [key for key in ("bbox", "segmentation") if _given(results[0].get(key))]
            if missing := [key for key in wanted if key not in one]:
                raise UserError(f"results[{n}] has no {missing[0]}: got {short(one)}.") from None
        raise
    return Results(images, classes, scores, boxes, drawn)


def _given(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def found_of(results: Results, asked: Asked, masks: bool, boxes: bool, box_areas: bool | None) -> Found:
    """Results as detections; those of other pictures and classes than asked for have the label -1.

    masks, boxes  what is wanted of them
    box_areas     ranges of size by the area of boxes; None: as pycocotools has it, where the first result has a box
    raises        UserError for what is not of this data set, no box, no mask or no score
    """
    images = numbers_of(results.images, asked.images, asked.known[0], "image_id")
    labels = numbers_of(results.classes, asked.classes, asked.known[1], "category_id")
    labels[images < 0] = -1
    with_boxes, shapes = len(results.boxes) > 0, None
    by_box = with_boxes if box_areas is None else box_areas
    if len(results) and (masks or not with_boxes):
        shapes = _masks(results, images, asked)
    elif not len(results):
        shapes = masks_of([], np.zeros((0, 2), dtype=np.int64), named)
    places = None
    if boxes or by_box:
        places = shapes.boxes if shapes and not with_boxes else boxes_of(results.boxes, named)
    areas = places[:, 2] * places[:, 3] if by_box or shapes is None else shapes.pixels  # type: ignore[index]
    scores = numbers(results.scores, "score", named, infinite=True)
    return Found(np.maximum(images, 0), labels, areas, places, shapes, scores)


def named(number: int) -> str:
    """What a result is called."""
    return f"results[{number}]"


def numbers_of(ids: Any, wanted: dict[Any, int], known: set, key: str) -> np.ndarray:
    """[N] int64 places of ids; -1 for one that is known, but not wanted."""
    if isinstance(ids, np.ndarray) and all(type(one) is int and abs(one) < 2**63 for one in wanted):
        ascending = np.array(list(wanted) or [0], dtype=np.int64)
        places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
        found = np.where((ascending[places] == ids) & bool(wanted), places, -1)
    else:
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        try:
            found = np.array([wanted.get(one, -1) for one in ids], dtype=np.int64)
        except TypeError:
            raise UserError(f"results must each have an {key} that is a number or text.") from None
    others = np.flatnonzero(found < 0)
    if (unknown := next((n for n in others.tolist() if ids[n] not in known), None)) is not None:
        raise UserError(
            f"{named(unknown)} has {key} {short(ids[unknown])}, which the truth does not have: it has "
            f"{few(sorted(known, key=str))}; results and truth must be of one data set."
        )
    return found


def _masks(results: Results, images: np.ndarray, asked: Asked) -> Masks:
    if results.segmentations is None:
        raise UserError('results[0] has no segmentation: masks need one; ask for kinds="bbox".')
    sizes = np.where(images[:, None] >= 0, asked.sizes[np.maximum(images, 0)] if len(asked.sizes) else -1, -1)
    asked.check_sizes(images)
    return masks_of(results.segmentations, sizes, named)
