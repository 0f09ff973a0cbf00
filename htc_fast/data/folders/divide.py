"""A split where there is none: by picture, stratified by class, the same every time."""

import hashlib
from collections import defaultdict
from typing import Any

from htc_fast.data.numbers import identity

SHARE = 0.2
SEED = 0


def divide(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A COCO file's content in two, whose pictures keep their order and their ids.

    returns  what is trained on and what is held out; of one picture alone both are that picture
    """
    names = [str(one.get("file_name")) for one in content["images"]]
    place = {identity(one.get("id")): number for number, one in enumerate(content["images"])}
    classes: list[set] = [set() for _ in names]
    for one in content["annotations"]:
        number = place.get(identity(one.get("image_id")))
        if number is not None:
            classes[number].add(identity(one.get("category_id")))
    held = choose(names, classes) if len(names) > 1 else set()
    train = [number for number in range(len(names)) if number not in held]
    return _part(content, train, place), _part(content, sorted(held) or train, place)


def choose(names: list[str], classes: list[set]) -> set[int]:
    """Which pictures are held out: a fifth of all, and of those of each class as nearly as that goes.

    classes  of the objects in each picture; those without any are a class of their own
    """
    count = max(1, round(SHARE * len(names)))
    # Neither the order in a file nor that of a folder has a say, nor have pictures that are added later: what was
    # trained on would be held out then.
    order = sorted(range(len(names)), key=lambda number: _drawn(names[number]))
    members: dict[Any, list[int]] = defaultdict(list)
    for number in order:
        for one in classes[number] or {None}:
            members[one].append(number)
    held: set[int] = set()
    left = set(order)
    # The rarest first: what is common comes by itself. A class of one picture is trained on.
    for _, own in sorted(members.items(), key=lambda item: (len(item[1]), str(item[0]))):
        wanted = round(SHARE * len(own)) - len(held.intersection(own))
        free = [number for number in own if number in left]
        if count <= len(members):
            # Where there are hardly more pictures than classes, one has to stand for several.
            free.sort(key=lambda number: -len(classes[number]))
        held.update(free[: max(wanted, 0)])
        # Whoever was passed over stays, as long as there are others.
        left -= set(own)
    spared = {number: _spared(number, classes, members, held) for number in order if number not in held}
    rest = sorted(spared, key=lambda number: not spared[number])
    held.update(rest[: max(count - len(held), 0)])
    return held


def _drawn(name: str) -> bytes:
    """A picture's place in the draw, which is its own."""
    return hashlib.sha256(f"{SEED} {name}".encode("utf-8", "surrogatepass")).digest()


def _spared(number: int, classes: list[set], members: dict[Any, list[int]], held: set[int]) -> bool:
    """Whether each class of a picture has another picture to train on."""
    return all(any(one != number and one not in held for one in members[kind]) for kind in classes[number])


def _part(content: dict[str, Any], numbers: list[int], place: dict) -> dict[str, Any]:
    chosen = set(numbers)
    images = [content["images"][number] for number in numbers]
    annotations = [one for one in content["annotations"] if place.get(identity(one.get("image_id"))) in chosen]
    return {**content, "images": images, "annotations": annotations}
