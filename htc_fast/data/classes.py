"""COCO's 80 detection classes, for weights that carry no names of their own."""

from collections.abc import Sequence

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
