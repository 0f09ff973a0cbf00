"""labelme's folders: a JSON file beside each picture, with polygons, rectangles, circles and bitmaps.

labelme itself needs Qt, and supervision reads polygons and rectangles alone, as bitmaps of whole pixels.
"""

import base64
import binascii
import io
import math
import os
from typing import Any

import numpy as np
from PIL import Image

from htc_fast.data import runs
from htc_fast.data.folders.listing import Found, Listing, progress, sizes_of
from htc_fast.data.folders.maps import crop_to_rle
from htc_fast.data.folders.tree import Tree, split_in
from htc_fast.data.formats import SUFFIXES
from htc_fast.data.masks import Segmentation, to_rles
from htc_fast.data.numbers import number, whole
from htc_fast.data.reading import read_json
from htc_fast.errors import UserError

OUTLINES = ("polygon", "oriented_rectangle", "quadrangle", "rotation")  # the last is X-AnyLabeling's
TOLERANCE = 0.05  # pixels between a circle and the polygon that stands for it


def looks_like(tree: Tree) -> bool:
    """Whether there are JSON files with shapes."""
    return bool(tree.of_kind("labelme"))


def read(tree: Tree) -> Found:
    """Read a labelme folder and the folders in it.

    raises  UserError where nothing of it can be used
    """
    listing, taken = Listing("labelme", tree.root), set()
    others: list[tuple[str, str]] = []
    for file in progress(tree.of_kind("labelme"), "labelme"):
        try:
            content = read_json(tree.root / file)
        except UserError:
            listing.refuse("with a JSON file that cannot be read", file)
            continue
        name = _picture(tree, file, content) or _elsewhere(tree, file, content, others)
        shapes = content.get("shapes")
        if name is None or name in taken:
            reason = "missing beside their JSON file" if name is None else "described by two JSON files"
            listing.refuse(reason, name or content.get("imagePath"))
        elif not isinstance(shapes, list):
            listing.refuse("with a JSON file without a list of shapes", file)
        else:
            taken.add(name)
            _add(tree, name, content, shapes, listing)
    if others:
        listing.said.append(
            f"{len(others)} pictures lie elsewhere than their JSON files say, such as that of {others[0][0]}, which is "
            f"{others[0][1]}."
        )
    without = len(set(tree.pictures) - taken)
    if without:
        one = without == 1
        listing.said.append(
            f"{without} picture{' has' if one else 's have'} no JSON file beside {'it' if one else 'them'} and "
            f"{'is' if one else 'are'} left out."
        )
    return listing.found()


def _add(tree: Tree, name: str, content: dict, shapes: list, listing: Listing) -> None:
    try:
        size, stored = sizes_of(tree.root / name)
    except UserError:
        return listing.refuse("that cannot be read", name)
    said = whole(content.get("imageHeight")) or size[0], whole(content.get("imageWidth")) or size[1]
    if said == stored:
        size = stored  # drawn by a tool that does not turn pictures as EXIF says
    if said != size:
        return listing.refuse("of another size than their JSON file says", name)
    listing.add(name, size, split_in(name), _objects(shapes, size, name, listing))


def _picture(tree: Tree, file: str, content: dict) -> str | None:
    """The picture of a JSON file: where it says, else of its name beside it, else of the said name beside it."""
    place = os.path.dirname(file)
    said = str(content.get("imagePath") or "").replace("\\", "/")
    stem = os.path.splitext(file)[0]
    tried = [os.path.normpath(os.path.join(place, said)) if said else ""]
    tried += [f"{stem}{suffix}" for one in SUFFIXES for suffix in (one, one.upper())]
    tried.append(os.path.join(place, os.path.basename(said)))
    return next((one for one in tried if one in tree.files and one.lower().endswith(SUFFIXES)), None)


def _elsewhere(tree: Tree, file: str, content: dict, others: list[tuple[str, str]]) -> str | None:
    """The only picture of the said name in another folder, unless that has a JSON file of its own beside it."""
    found = tree.longest_end(str(content.get("imagePath") or ""))
    if found is None or f"{os.path.splitext(found)[0]}.json" in tree.files:
        return None
    others.append((file, found))
    return found


def _objects(shapes: list, size: tuple[int, int], name: str, listing: Listing) -> list[tuple[str, Segmentation]]:
    """Objects, of one or of several shapes: those of one label and one group_id are parts of one."""
    groups: dict[tuple[str, Any], list[Segmentation]] = {}
    for place, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        label = str(label) if isinstance(label, (int, float)) and not isinstance(label, bool) else label
        if not isinstance(label, str) or not label:
            listing.drop("without a label", name)
            continue
        kind = shape.get("shape_type") or "polygon"
        mask = _mask(shape, kind, size)
        if mask is None:
            known = (*OUTLINES, "rectangle", "circle", "mask")
            listing.drop(f"with a malformed {kind}" if kind in known else f"that are no areas but a {kind}", name)
            continue
        group = shape.get("group_id")
        groups.setdefault((label, ("shape", place) if group is None else str(group)), []).append(mask)
    return [(label, _joined(parts, size)) for (label, _), parts in groups.items()]


def _joined(parts: list[Segmentation], size: tuple[int, int]) -> Segmentation:
    if len(parts) == 1:
        return parts[0]
    polygons = [polygon for part in parts if isinstance(part, list) for polygon in part]
    bitmaps = [part for part in parts if isinstance(part, dict)]
    if not bitmaps:
        return polygons
    return runs.union([*bitmaps, *(to_rles([polygons], *size) if polygons else [])])


def _mask(shape: dict, kind: str, size: tuple[int, int]) -> Segmentation | None:
    """A shape's area; None where it has none or is malformed."""
    points = _points(shape.get("points"))
    if points is None:
        return None
    if kind in OUTLINES and len(points) >= 3:
        return [[value for point in points for value in point]]
    if kind == "rectangle" and len(points) in (2, 4):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle" and len(points) == 2:
        return [_circle(points[0], math.dist(*points))]
    if kind == "mask" and len(points) == 2:
        return _bitmap(shape.get("mask"), points, size)
    return None


def _points(given: Any) -> list[tuple[float, float]] | None:
    pairs = given if isinstance(given, list) else [None]
    points = [
        (number(one[0]), number(one[1])) if isinstance(one, list) and len(one) == 2 else (None, None) for one in pairs
    ]
    found = [(x, y) for x, y in points if x is not None and y is not None]
    return found if len(found) == len(points) else None


def _circle(centre: tuple[float, float], radius: float) -> list[float]:
    """A polygon that is nowhere further than TOLERANCE from a circle."""
    sides = min(max(12, math.ceil(math.pi / math.acos(max(1 - TOLERANCE / max(radius, 1), 0)))), 3600)
    turns = [2 * math.pi * place / sides for place in range(sides)]
    return [
        value for turn in turns for value in (centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn))
    ]


def _bitmap(text: Any, points: list[tuple[float, float]], size: tuple[int, int]) -> dict | None:
    """The bitmap between two corners, both of which belong to it."""
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            if picture.size != (right - left + 1, bottom - top + 1):
                return None
            values = np.array(picture)
    except (TypeError, ValueError, binascii.Error, OSError, SyntaxError, Image.DecompressionBombError):
        return None
    return crop_to_rle(np.asarray(values if values.ndim == 2 else values[..., :3].any(axis=2)), (left, top), size)
