"""COCO's truth and results, from files or Python objects, as packed arrays."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from htc_fast.errors import MOST, UserError, few, shown
from htc_fast.evaluation.columns import boxes_of, numbers
from htc_fast.evaluation.mask_texts import masks_of
from htc_fast.evaluation.objects import Masks, Truth


@dataclass
class Asked:
    """Pictures and classes that count, in the order of their ids, as COCOeval sorts them.

    images   id -> number;  sizes: [pictures, 2] int64, height and width, -1 where the truth has none
    classes  id -> number;  names: of the classes
    known    ids of all pictures and of all classes that the truth has, asked for or not
    pictures, categories  the truth's dicts in that order
    """

    images: dict[Any, int]
    classes: dict[Any, int]
    names: list[str]
    sizes: np.ndarray
    known: tuple[set, set]
    pictures: list[dict]
    categories: list[dict]

    def check_sizes(self, images: np.ndarray) -> None:
        """raises  UserError if a picture that is looked at has no height or width"""
        without = np.flatnonzero(self.sizes.min(axis=1, initial=0) < 0)
        if (there := without[np.isin(without, images)]).size:
            raise UserError(
                f"the truth's image {list(self.images)[int(there[0])]} has no height and width: masks need them."
            )


def truth_content(truth: Any) -> dict[str, Any]:
    """What json.load gives of a truth; of a pycocotools COCO, what it was made of."""
    content = loaded(truth, "truth") if isinstance(truth, (str, os.PathLike)) else getattr(truth, "dataset", truth)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(
            'truth must be a COCO file, what json.load gives of one (a dict of lists "images", "annotations" and '
            f'"categories") or a pycocotools COCO, got {shown(truth)}.'
        )
    return content


def asked_of(content: dict[str, Any], images: Sequence[Any] | None, classes: Sequence[Any] | None) -> Asked:
    """Pictures and classes of a truth, or those of the ids given."""
    pictures, categories = (_by_id(content[key], f"truth's {key}") for key in ("images", "categories"))
    wanted, kinds = _ids(pictures, images, "images"), _ids(categories, classes, "classes")
    names = [str(categories[one].get("name", one)) for one in kinds]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    sizes = [[_side(pictures[one].get(key)) for key in ("height", "width")] for one in wanted]
    return Asked(
        {one: n for n, one in enumerate(wanted)},
        {one: n for n, one in enumerate(kinds)},
        [f"{name} ({one})" if name in twice else name for name, one in zip(names, kinds)],
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        (set(pictures), set(categories)),
        [pictures[one] for one in wanted],
        [categories[one] for one in kinds],
    )


def truth_of(content: dict[str, Any], asked: Asked, masks: bool, boxes: bool, crowds: bool = True) -> Truth:
    """Annotations of the pictures and classes that count.

    masks, boxes  what is wanted of them
    crowds        False: LVIS, which has none, but annotations to ignore
    """
    try:
        held = [
            one
            for one in content["annotations"]
            if isinstance(one, dict) and one.get("image_id") in asked.images and one.get("category_id") in asked.classes
        ]
    except TypeError:
        raise UserError(
            "the truth's annotations must have ids of images and categories that are numbers or text."
        ) from None

    def name(n: int) -> str:
        return f"truth's annotation {held[n].get('id', n)}"

    images = np.array([asked.images[one["image_id"]] for one in held], dtype=np.int64)
    labels = np.array([asked.classes[one["category_id"]] for one in held], dtype=np.int64)
    unmeasured = any(one.get("area") is None for one in held)
    drawn = held and all(one.get("segmentation") for one in held)
    shapes = None
    if masks or (unmeasured and drawn):
        if not drawn and held:
            missing = next(n for n, one in enumerate(held) if not one.get("segmentation"))
            raise UserError(
                f'{name(missing)} has no segmentation: masks cannot be compared with it; ask for kinds="bbox".'
            )
        shapes = _masks(held, images, asked, name)
    places = boxes_of([one.get("bbox") for one in held], name) if boxes or (unmeasured and shapes is None) else None
    if unmeasured:
        own = shapes.pixels if shapes else places[:, 2] * places[:, 3]  # type: ignore[index]
        areas = numbers(
            [own[n] if one.get("area") is None else one["area"] for n, one in enumerate(held)], "area", name
        )
    else:
        areas = numbers([one["area"] for one in held], "area", name)
    crowd = np.array([bool(crowds and one.get("iscrowd")) for one in held], dtype=np.uint8)
    ignored = crowd if crowds else np.array([bool(one.get("ignore")) for one in held], dtype=np.uint8)
    return Truth(images, labels, areas, places, shapes, crowd, ignored)


def _masks(held: list[dict[str, Any]], images: np.ndarray, asked: Asked, name: Any) -> Masks:
    asked.check_sizes(images)
    return masks_of([one["segmentation"] for one in held], asked.sizes[images], name)


def _by_id(items: list[Any], name: str) -> dict[Any, dict]:
    if not all(isinstance(one, dict) and isinstance(one.get("id"), (int, float, str)) for one in items):
        raise UserError(f"{name} must be dicts with an id that is a number or text.")
    return {one["id"]: one for one in items}


def _ids(known: dict[Any, dict], asked: Sequence[Any] | None, name: str) -> list[Any]:
    """Ids in ascending order."""
    try:
        wanted = list(known if asked is None else dict.fromkeys(asked))
    except TypeError:
        raise UserError(f"{name} takes a list of ids, got {shown(asked)}.") from None
    if unknown := [one for one in wanted if one not in known]:
        raise UserError(f"{name}: the truth has no id {few(unknown)}; it has {few(sorted(known, key=str))}.")
    try:
        return sorted(wanted)
    except TypeError:
        raise UserError(f"the truth's {name} have ids of several kinds: make them all numbers, or all text.") from None


def loaded(path: Any, what: str) -> Any:
    """What a JSON file holds.

    raises  UserError if it cannot be read
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{what}: cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}: {path} is no JSON: {error}.") from None


def _side(value: Any) -> int:
    """A height or width; -1 where there is none."""
    plain = isinstance(value, (int, float)) and 0 <= value <= MOST and value == int(value)
    return int(value) if plain else -1
