"""COCO annotation files: read whole, checked once, kept small.

What cannot be used is dropped, counted and said in one line; what makes the whole file useless is an error.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from htc_fast.data.masks import Segmentation, is_usable
from htc_fast.data.packed import Packed
from htc_fast.errors import UserError, say_once


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
    """

    pictures: Packed[Picture]
    classes: list[str]
    category_ids: list[int | str | None]
    labelled: bool
    sizes: list[tuple[int, int]]
    trainable: list[int]
    file_names: list[str]
    semantic_classes: int | None = None


def read_json(path: str | Path) -> dict:
    """Read a JSON object.

    raises  UserError if the file is missing, is no JSON or holds something else
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"annotation file {path} is missing: check the path.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"annotation file {path} is not valid JSON ({error.msg}, line {error.lineno}, column {error.colno}): "
            "it may be cut off; fetch or write it again."
        ) from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"annotation file {path} cannot be read ({error}): expected a COCO JSON file.") from None
    if not isinstance(content, dict):
        raise UserError(f"annotation file {path} holds a JSON {type(content).__name__}: expected a COCO object.")
    return content


def read_annotations(path: str | Path, classes: Sequence[str] | None = None) -> Annotations:
    """Read and check one COCO instances file.

    classes  names to use, in this order, others are left out; None: all categories, by rank of their id
    raises   UserError if the file, its image list or its category list is unusable
    """
    path = Path(path)
    content = read_json(path)
    labelled = "annotations" in content
    for key in ("images", "categories", *(["annotations"] if labelled else [])):
        if not isinstance(content.get(key), list) or not all(isinstance(item, dict) for item in content[key]):
            raise UserError(
                f"{path} has no list of {key!r}: expected the COCO format (images, annotations, categories)."
            )
    category_ids, names = _categories(content["categories"], classes, path)
    pictures = _pictures(content["images"], path)
    dropped: Counter[str] = Counter()
    if labelled:
        skipped = {category["id"] for category in content["categories"]} - set(category_ids)
        labels = {category: label for label, category in enumerate(category_ids)}
        _attach(content["annotations"], pictures, labels, skipped, dropped)
    if dropped:
        parts = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        total = f"{sum(dropped.values())} of {len(content['annotations'])}"
        say_once(f"{path.name}: {total} annotations are not used ({parts}).")
    info = content.get("info")
    found = list(pictures.values())
    return Annotations(
        pictures=Packed(found),
        classes=names,
        category_ids=category_ids,
        labelled=labelled,
        sizes=[(picture.height, picture.width) for picture in found],
        trainable=[sum(item.trainable for item in picture.annotations) for picture in found],
        file_names=[picture.file_name for picture in found],
        semantic_classes=info.get("semantic_classes") if isinstance(info, dict) else None,
    )


def _categories(categories: list[dict], classes: Sequence[str] | None, path: Path) -> tuple[list, list[str]]:
    """Ids and names by label: the rank of the id, or the order of `classes`."""
    ids = [category.get("id") for category in categories]
    if not ids or len(set(map(str, ids))) != len(ids) or any(not isinstance(i, (int, str)) for i in ids):
        raise UserError(f"{path}: 'categories' must be a list of categories with different ids, numbers or strings.")
    ordered = sorted(categories, key=lambda category: (isinstance(category["id"], str), category["id"]))
    names = [str(category.get("name", category["id"])) for category in ordered]
    twice = {name for name, count in Counter(names).items() if count > 1}
    # Exporters name a group after its only member; numbers keep the two apart.
    names = [f"{name} ({one['id']})" if name in twice else name for name, one in zip(names, ordered)]
    if classes is None:
        return [category["id"] for category in ordered], names
    missing = [name for name in classes if name not in names]
    if missing:
        raise UserError(f"{path} has no category {missing[0]!r}: it has {', '.join(names)}.")
    return [ordered[names.index(name)]["id"] for name in classes], list(classes)


def _pictures(images: list[dict], path: Path) -> dict[int | str, Picture]:
    pictures: dict[int | str, Picture] = {}
    for image in images:
        key, name = image.get("id"), image.get("file_name")
        if not isinstance(key, (int, str)) or not isinstance(name, str) or not name:
            raise UserError(f"{path}: an image lacks 'id' or 'file_name' ({str(image)[:80]}).")
        if key in pictures:
            raise UserError(f"{path}: image id {key} appears twice ({pictures[key].file_name} and {name}).")
        height, width = image.get("height"), image.get("width")
        if not (isinstance(height, (int, float)) and isinstance(width, (int, float)) and min(height, width) >= 1):
            raise UserError(f"{path}: image {name} needs a positive 'height' and 'width' in pixels.")
        pictures[key] = Picture(key, _inside(name, path), int(height), int(width))
    if not pictures:
        raise UserError(f"{path} lists no images.")
    return pictures


def _inside(name: str, path: Path) -> str:
    """The file name, if it stays within the image folder."""
    parts, depth = PurePosixPath(name.replace("\\", "/")), 0
    for part in parts.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if parts.is_absolute() or depth <= 0 or ":" in parts.parts[0] or "\0" in name:
        raise UserError(
            f"{path}: file_name {name!r} leaves the image folder: expected a path relative to it, without '..'."
        )
    return name


def _attach(found: list[dict], pictures: dict, labels: dict, skipped: set, dropped: Counter) -> None:
    """Give every annotation that can be used to its picture; count the others by reason."""
    for item in found:
        picture = pictures.get(_key(item.get("image_id")))
        category = _key(item.get("category_id"))
        if category in skipped:
            continue
        if picture is None:
            dropped["of an image that is not listed"] += 1
        elif category not in labels:
            dropped["of an unknown category"] += 1
        else:
            reason = _add(item, picture, labels[category])
            if reason and reason != "crowd":
                dropped[reason] += 1


def _key(value: object) -> int | float | str | None:
    return value if isinstance(value, (int, float, str)) else None


def _add(item: dict, picture: Picture, label: int) -> str | None:
    """Add one annotation; returns why it is not trained on, if so."""
    segmentation = item.get("segmentation")
    if not segmentation:
        return "without a mask"
    if not is_usable(segmentation, picture.height, picture.width):
        return "with a malformed mask"
    box = item.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        return "with a malformed box"
    x, y, w, h = map(float, box)
    area = float(item["area"]) if _is_number(item.get("area")) else None
    inside = min(x + w, picture.width) > max(x, 0) and min(y + h, picture.height) > max(y, 0)
    crowd = bool(item.get("iscrowd"))
    reason = None
    if (area is not None and area <= 0) or w < 1 or h < 1:
        reason = "without area"
    elif not inside:
        reason = "outside the image"
    elif item.get("ignore"):
        reason = "marked to be ignored"
    elif crowd:
        reason = "crowd"
    picture.annotations.append(Annotation(label, (x, y, x + w, y + h), segmentation, area, crowd, reason is None))
    return reason


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
