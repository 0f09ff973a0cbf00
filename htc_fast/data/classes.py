"""Lists of classes: COCO's for weights that carry no names of their own, and one file's in another's order.

Classes are who they are called: wherever two lists meet, they are matched by name.
"""

from collections.abc import Sequence
from dataclasses import replace

from htc_fast.data.annotations import Annotations, Picture, say_once
from htc_fast.data.packed import Packed
from htc_fast.errors import UserError

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


def default_classes(count: int) -> tuple[Sequence[str], Sequence[int]]:
    """Names and category ids by label: COCO's for 80 classes, else numbers from 1."""
    if count == len(_BY_ID):
        return list(_BY_ID.values()), list(_BY_ID)
    return [f"class {i + 1}" for i in range(count)], list(range(1, count + 1))


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
    lacking = [one for one in classes if one not in found.classes]
    others = [one for one in found.classes if one not in classes]
    if len(lacking) == len(classes):
        raise UserError(
            f"{name} has none of the classes {few(classes)}: it has {few(found.classes)}; "
            "choose other weights or another annotation file."
        )
    labels = {found.classes.index(one): label for label, one in enumerate(classes) if one in found.classes}
    pictures, left_out = [], 0
    for picture in found.pictures:
        kept = [replace(item, label=labels[item.label]) for item in picture.annotations if item.label in labels]
        left_out += len(picture.annotations) - len(kept)
        pictures.append(Picture(picture.id, picture.file_name, picture.height, picture.width, kept))
    if lacking:
        say_once(f"{name} lacks {len(lacking)} of the {len(classes)} classes ({few(lacking)}): none of them counts.")
    if others:
        say_once(f"{name}: {left_out} annotations are left out, as there is no class {few(others)}.")
    ids = {one: found.category_ids[label] for label, one in enumerate(found.classes)}
    return replace(
        found,
        pictures=Packed(pictures),
        classes=list(classes),
        category_ids=[ids.get(one) for one in classes],
        trainable=[sum(item.trainable for item in picture.annotations) for picture in pictures],
    )


def few(names: Sequence[str], most: int = 5) -> str:
    """Some of a list of names, for a sentence."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
