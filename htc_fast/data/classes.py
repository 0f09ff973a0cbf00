"""Lists of classes: COCO's for weights that carry no names of their own, and one file's in another's order.

Classes are who they are called: wherever two lists meet, they are matched by name.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from htc_fast.data.annotations import Annotations
from htc_fast.data.packed import Packed
from htc_fast.errors import UserError, few, say_once, short, shown
from htc_fast.models.config import Model
from htc_fast.models.weights.rows import check_order

_GROUPS = {
    1: "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant",
    13: "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    27: "backpack,umbrella",
    31: "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket,bottle",
    46: "wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,"
    "cake,chair,couch,potted plant,bed",
    67: "dining table",
    70: "toilet",
    72: "tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator",
    84: "book,clock,vase,scissors,teddy bear,hair drier,toothbrush",
}
# Category ids run on within a group and jump between groups.
_BY_ID = {first + i: name for first, names in _GROUPS.items() for i, name in enumerate(names.split(","))}


def numbered(label: int) -> str:
    """What a class is called that has no name, or none that can be written: numbers begin at 1; padding is no class."""
    return f"class {label + 1}" if label >= 0 else f"label {label}"


def default_classes(count: int) -> tuple[Sequence[str], Sequence[int]]:
    """Names and category ids by label: COCO's for 80 classes, else numbers from 1."""
    if count == len(_BY_ID):
        return list(_BY_ID.values()), list(_BY_ID)
    return [numbered(label) for label in range(count)], list(range(1, count + 1))


def classes_of(config: Model) -> tuple[Sequence[str], Sequence[int | str | None]]:
    """A model's class names and category ids by label: its own; without them COCO's for 80 classes, else numbers."""
    names, ids = default_classes(config.num_classes)
    if config.category_ids:
        return config.class_names or names, config.category_ids
    if config.class_names and set(config.class_names) != set(names):
        return config.class_names, range(1, config.num_classes + 1)
    numbers = dict(zip(names, ids))
    names = config.class_names or names
    return names, [numbers[name] for name in names]


def names_for(config: Model, found: Annotations, name: str) -> list[str]:
    """The names by which a model's classes are looked for in an annotation file.

    found    the file's annotations, and its name for what is said
    returns  by label: the model's own; without them COCO's where the file has any of those, else the file's in order
    raises   UserError if the model has no names and another number of classes
    """
    if config.class_names:
        return list(config.class_names)
    names, _ = default_classes(config.num_classes)
    shared = set(found.classes) & set(names)
    in_place = len(found.classes) == len(names) and all(a == b for a, b in zip(found.classes, names) if a in shared)
    if len(shared) == len(found.classes) or (shared and not in_place):
        return list(names)
    if len(found.classes) != config.num_classes:
        raise UserError(
            f"the model has {config.num_classes} classes, none with a name, and {name} has {len(found.classes)} "
            f"({few(found.classes)}){near_misses(names, found.classes)}: choose other weights or another annotation "
            "file."
        )
    say_once(f"the weights name no classes: they are taken for those of {name} in its order ({few(found.classes)}).")
    return list(found.classes)


def shared_labels(found: Annotations, classes: Sequence[str], name: str) -> dict[int, int]:
    """The labels of a file's classes -> those that they have in another list of classes.

    raises  UserError if the two lists have no class in common, or one name stands for two classes
    """
    labels = {one: label for label, one in enumerate(classes)}
    if len(labels) < len(classes):
        twice = next(one for label, one in enumerate(classes) if labels[one] != label)
        raise UserError(
            f"two classes are called {short(twice)}, so {name} cannot be matched by name: rename one of them."
        )
    both = {label: labels[one] for label, one in enumerate(found.classes) if one in labels}
    if not both:
        raise UserError(
            f"{name} has none of the classes {few(classes)}: it has {few(found.classes)}"
            f"{near_misses(classes, found.classes)}; choose other weights or another annotation file."
        )
    return both


def near_misses(names: Sequence[str], others: Iterable[str]) -> str:
    """A remark on names that differ in nothing but capitals, spaces, hyphens or underscores; "" if none do."""
    alike = {_plain(one): one for one in others if _plain(one)}
    pairs = [(one, alike[_plain(one)]) for one in names if alike.get(_plain(one), one) != one]
    return f" (is {short(pairs[0][0])} the same as its {short(pairs[0][1])}? then call them alike)" if pairs else ""


def check_names(names: Any, config: Model) -> Sequence[str]:
    """Names for a model's classes, by label.

    raises  UserError if they are not one for each class, or the model's own in another order
    """
    ordered = isinstance(names, Iterable) and not isinstance(names, (str, bytes, dict, set, frozenset))
    given = [str(one) if isinstance(one, str) else one for one in names] if ordered else []
    if not ordered or not all(isinstance(one, str) for one in given):
        raise UserError(f"class_names takes a list of names, got {shown(names)}.")
    names = given
    if len(names) != config.num_classes:
        raise UserError(f"class_names must name {config.num_classes} classes, as the model has, got {len(names)}.")
    check_order(names, config.class_names)
    return names


def relabelled(found: Annotations, classes: Sequence[str], name: str) -> Annotations:
    """The same annotations with labels that count in another list of classes; what differs is said once.

    found    a file's annotations, by its own classes
    classes  by label, such as a model's; those that the file lacks have no instances and the category id None
    name     of the file, for what is said
    returns  the annotations of those classes; the file's other classes are left out
    raises   UserError if the two lists have no class in common
    """
    if list(classes) == found.classes:
        return found
    labels = shared_labels(found, classes, name)
    lacking = [one for one in classes if one not in found.classes]
    others = [one for one in found.classes if one not in classes]
    pictures, left_out = [], 0
    for picture in found.pictures:
        kept = [replace(item, label=labels[item.label]) for item in picture.annotations if item.label in labels]
        left_out += len(picture.annotations) - len(kept)
        pictures.append(replace(picture, annotations=kept))
    if lacking:
        hint = near_misses(lacking, others)
        say_once(
            f"{name} lacks {len(lacking)} of the {len(classes)} classes ({few(lacking)}){hint}: none of them counts."
        )
    if others:
        say_once(f"{name}: there is no class {few(others)} here, so {left_out} annotations are left out.")
    ids = {one: found.category_ids[label] for label, one in enumerate(found.classes)}
    return replace(
        found,
        pictures=Packed(pictures),
        classes=list(classes),
        category_ids=[ids.get(one) for one in classes],
        trainable=[sum(item.trainable for item in picture.annotations) for picture in pictures],
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())
