"""COCO annotation files: read whole, checked once, kept small.

What cannot be used is dropped, counted and said in one line; what makes the whole file useless is an error.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from htc_fast.data.masks import Segmentation, box_of, is_blank, to_rle, unmark, usable
from htc_fast.data.names import check_inside
from htc_fast.data.numbers import as_json, as_written, different, flag, identity, number, offending, whole
from htc_fast.data.packed import Packed
from htc_fast.data.reading import read_json
from htc_fast.errors import UserError, brief, few, say_once, short

# What pycocotools can count in an int, five steps to a pixel along a side.
MOST_ALONG = 1_000_000
MOST_PIXELS = 2**31 - 1
CROWD = "marked 'iscrowd'"
MANY = 0.1  # of a file's annotations; COCO has a hundredth of crowds


@dataclass(slots=True)
class Annotation:
    """One instance: class label, box x1, y1, x2, y2 in original pixels, mask as COCO stores it.

    area       pixels of the mask, as the file gives it; None: not given
    trainable  False for crowds, ignored ones and those without area inside the image: only evaluation sees them
    """

    label: int
    box: tuple[float, float, float, float]
    segmentation: Segmentation
    area: float | None
    crowd: bool
    trainable: bool


@dataclass(slots=True)
class Picture:
    """One image of a data set: its id and file name in the annotation file, size in pixels, instances."""

    id: int | str
    file_name: str
    height: int
    width: int
    annotations: list[Annotation] = field(default_factory=list)


@dataclass
class Annotations:
    """A whole annotation file.

    pictures      Packed list of Picture, in the file's order
    classes       names by label;  category_ids: the file's ids by label, None for a class that it lacks
    labelled      False for a file without annotations, such as COCO's image_info_test-dev2017.json
    sizes         [(height, width)] and trainable: [number of instances to train on], both by picture
    untrained     reason -> number of annotations that are not trained on, crowds among them
    """

    pictures: Packed[Picture]
    classes: list[str]
    category_ids: list[int | str | None]
    labelled: bool
    sizes: list[tuple[int, int]]
    trainable: list[int]
    file_names: list[str]
    semantic_classes: int | None = None
    untrained: dict[str, int] = field(default_factory=dict)


class Tally:
    """What there was to be said of annotations: how many of each, and one of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, *example: object) -> None:
        self.counts[reason] += 1
        if example and reason not in self._examples:
            self._examples[reason] = f", such as {as_json(example[0])}"

    def __str__(self) -> str:
        return "; ".join(f"{count} {one}{self._examples.get(one, '')}" for one, count in self.counts.most_common())


def read_annotations(path: str | Path, classes: Sequence[str] | None = None) -> Annotations:
    """Read and check one COCO instances file.

    classes  names to use, in this order, others are left out; None: all categories, by rank of their id
    raises   UserError if the file, its image list or its category list is unusable
    """
    path = Path(path)
    content = read_json(path)
    labelled = "annotations" in content
    for key in ("images", "categories", *(["annotations"] if labelled else [])):
        found = content.get(key)
        if not isinstance(found, list):
            raise UserError(
                f"{path} has no list of {key!r}, but {as_json(found)}: expected the COCO format "
                "(images, annotations, categories)."
            )
        wrong = next((one for one in found if not isinstance(one, dict)), found)
        if wrong is not found:
            raise UserError(f"{path} has no list of {key!r} alone: it holds {as_json(wrong)}, expected objects.")
    category_ids, names, labels = _categories(content["categories"], classes, path)
    pictures = _pictures(content["images"], path)
    dropped, untrained, mended = Tally(), Tally(), Tally()
    if labelled:
        unmarked = unmark(content["annotations"])
        if unmarked:
            say_once(
                f"{path.name}: {unmarked} of {len(content['annotations'])} annotations are CVAT's masks, all of which "
                "it marks 'iscrowd': each is taken for a single object."
            )
        _attach(content["annotations"], pictures, labels, dropped, untrained, mended)
        _say_tallies(path, len(content["annotations"]), dropped, untrained, mended)
    every = list(pictures.values())
    return Annotations(
        pictures=Packed(every),
        classes=names,
        category_ids=category_ids,
        labelled=labelled,
        sizes=[(picture.height, picture.width) for picture in every],
        trainable=[sum(item.trainable for item in picture.annotations) for picture in every],
        file_names=[picture.file_name for picture in every],
        semantic_classes=_semantic_classes(content.get("info"), path),
        untrained=dict(dropped.counts + untrained.counts),
    )


def _say_tallies(path: Path, total: int, dropped: Tally, untrained: Tally, mended: Tally) -> None:
    if dropped.counts:
        say_once(f"{path.name}: {dropped.counts.total()} of {total} annotations are not used ({dropped}).")
    # Crowds are part of COCO; many of them are a converter's mistake.
    few_crowds = set(untrained.counts) == {CROWD} and untrained.counts[CROWD] <= MANY * total
    if untrained.counts and not few_crowds:
        say_once(
            f"{path.name}: {untrained.counts.total()} of {total} annotations are not trained on, but count in an "
            f"evaluation as pycocotools has it ({untrained})."
        )
    if mended.counts:
        say_once(f"{path.name}: annotations that are completed from their masks: {mended}.")


def _semantic_classes(info: object, path: Path) -> int | None:
    given = info.get("semantic_classes") if isinstance(info, dict) else None
    count = whole(given)
    if given is not None and (count is None or not 1 <= count <= 255):
        raise UserError(f"{path}: info.semantic_classes is {as_json(given)}: expected a number from 1 to 255.")
    return count


def _categories(
    categories: list[dict], classes: Sequence[str] | None, path: Path
) -> tuple[list[int | str | None], list[str], dict[int | str, int | None]]:
    """Ids and names by label, which is the rank of the id or the order of `classes`; label by id, None if left out."""
    keys = different([one.get("id") for one in categories], f"{path}: 'categories' must have different ids")
    if not keys:
        raise UserError(f"{path}: 'categories' must be a list of categories with different ids, but it is empty.")
    ids = [as_written(one["id"]) for one in categories]
    order = sorted(range(len(ids)), key=lambda i: (isinstance(keys[i], str), keys[i]))
    names = [_name(categories[i], path) for i in order]
    twice = {name for name, count in Counter(names).items() if count > 1}
    # Exporters name a group after its only member, which says so; else numbers keep the two apart.
    members = [name for name, i in zip(names, order) if name in twice and categories[i].get("supercategory") == name]
    for place, i in enumerate(order):
        name = names[place]
        if name in twice and not (members.count(name) == 1 and categories[i].get("supercategory") == name):
            names[place] = f"{name} ({ids[i]})"
    if classes is not None:
        missing = [name for name in classes if name not in names]
        if missing:
            raise UserError(f"{path} has no category {short(missing[0])}: it has {few(names)}.")
        order, names = [order[names.index(name)] for name in classes], list(classes)
    labels: dict[int | str, int | None] = dict.fromkeys(keys)
    labels.update({keys[i]: label for label, i in enumerate(order)})
    return [ids[i] for i in order], names, labels


def _name(category: dict, path: Path) -> str:
    name = category.get("name")
    if name is None or name == "":
        return str(as_written(category["id"]))
    if isinstance(name, bool) or not isinstance(name, (str, int, float)):
        raise UserError(
            f"{path}: the category of id {brief(str(category['id']))} has the name {as_json(name)}: expected text."
        )
    return unicodedata.normalize("NFC", str(name))


def _pictures(images: list[dict], path: Path) -> dict[int | str, Picture]:
    pictures: dict[int | str, Picture] = {}
    places: dict[str, int | str] = {}
    keys = different([image.get("id") for image in images], f"{path}: 'images' must have different ids")
    for key, image in zip(keys, images):
        name = image.get("file_name")
        if name is None and isinstance(image.get("coco_url"), str):
            # LVIS: http://images.cocodataset.org/train2017/000000391895.jpg
            name = "/".join(image["coco_url"].split("/")[-2:])
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{path}: the image of id {brief(str(key))} lacks 'file_name': expected text, got {as_json(name)}."
            )
        check_inside(name, path)
        height, width = whole(image.get("height")), whole(image.get("width"))
        if height is None or width is None or min(height, width) < 1:
            wrong = "width" if height is not None and height >= 1 else "height"
            raise UserError(
                f"{path}: image {brief(name)} needs a positive 'height' and 'width' in whole pixels, "
                f"but its {wrong} is {as_json(image.get(wrong))}."
            )
        if max(height, width) > MOST_ALONG or height * width > MOST_PIXELS:
            raise UserError(
                f"{path}: image {brief(name)} is said to be {width} x {height} pixels: expected at most {MOST_ALONG} "
                f"a side and {MOST_PIXELS} in all; correct the file, or cut the picture into tiles."
            )
        pictures[key] = Picture(as_written(image["id"]), name, height, width)
        same = places.setdefault(os.path.normpath(name.replace("\\", "/")), key)
        if same != key:
            raise UserError(
                f"{path} lists {brief(name)} twice, as ids {brief(str(same))} and {brief(str(key))}: give all of its "
                "annotations to one of them."
            )
    if not pictures:
        raise UserError(f"{path} lists no images.")
    return pictures


def _attach(items: list[dict], pictures: dict, labels: dict, dropped: Tally, untrained: Tally, mended: Tally) -> None:
    """Give every annotation that can be used to its picture; count the others by reason."""
    for item in items:
        picture, category = pictures.get(identity(item.get("image_id"))), identity(item.get("category_id"))
        if category in labels and labels[category] is None:
            continue
        if picture is None:
            dropped.add("of an image that is not listed", item.get("image_id"))
        elif category not in labels:
            dropped.add("of an unknown category", item.get("category_id"))
        else:
            _add(item, picture, labels[category], dropped, untrained, mended)


def _add(item: dict, picture: Picture, label: int, dropped: Tally, untrained: Tally, mended: Tally) -> None:
    """Add one annotation, or count why it is not used or not trained on, with what shows it."""
    given = item.get("segmentation")
    if not given:
        return dropped.add("without a mask")
    segmentation = usable(given, picture.height, picture.width)
    if segmentation is None:
        wrong = given.get("counts") if isinstance(given, dict) else given
        return dropped.add("with a malformed mask", offending(wrong) if offending(wrong) is not wrong else given)
    if is_blank(segmentation, picture.height, picture.width):
        return dropped.add("with a mask of no pixel in its picture", given)
    crowd, ignored = flag(item.get("iscrowd")), flag(item.get("ignore"))
    if crowd is None or ignored is None:
        name = "iscrowd" if crowd is None else "ignore"
        return dropped.add(f"with an {name!r} that is neither 0 nor 1", item[name])
    x, y, w, h = _box(item.get("bbox"), segmentation, picture, mended)
    area = number(item.get("area"))
    if area is None and item.get("area") is not None:
        mended.add("with a malformed area", item["area"])
    inside = min(x + w, picture.width) > max(x, 0) and min(y + h, picture.height) > max(y, 0)
    reasons: list[tuple] = []
    if area is not None and area <= 0:
        reasons.append(("without area", item["area"]))
    if w < 1 or h < 1:
        reasons.append(("with a box below a pixel", item.get("bbox")))
    if not inside:
        reasons.append(("with a box outside the image", item.get("bbox")))
    if ignored:
        reasons.append(("marked to be ignored",))
    if crowd:
        reasons.append((CROWD,))
    if reasons:
        untrained.add(*reasons[0])
    picture.annotations.append(Annotation(label, (x, y, x + w, y + h), segmentation, area, crowd, not reasons))


def _box(given: object, segmentation: Segmentation, picture: Picture, mended: Tally) -> list[float]:
    """x, y, width, height as the file gives them; what is no box is taken from the mask."""
    values = [number(value) for value in given] if isinstance(given, list) and len(given) == 4 else [None]
    box = [value for value in values if value is not None]
    if len(box) == 4:
        return box
    if given is None or given == []:
        mended.add("without a box")
    else:
        mended.add("with a malformed box", offending(given))
    return box_of(to_rle(segmentation, picture.height, picture.width))
