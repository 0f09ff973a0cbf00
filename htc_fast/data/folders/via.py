"""The VGG Image Annotator's own files: a project, or the regions alone."""

import math
from pathlib import Path
from typing import Any

from htc_fast.data.folders.listing import Found, Listing, progress, sizes_of
from htc_fast.data.folders.tree import Tree, split_in, split_of
from htc_fast.data.names import folded
from htc_fast.data.numbers import number
from htc_fast.data.reading import read_json
from htc_fast.errors import UserError, few

SIDES = 72  # of a polygon for an ellipse
NAMES = ("class", "label", "name", "type", "category", "object")


def looks_like(tree: Tree) -> bool:
    """Whether there is a file of VIA's."""
    return bool(tree.of_kind("via"))


def read(tree: Tree, chosen: Path | None = None) -> Found:
    """Read a folder of pictures with VIA's file, or with one for each split.

    chosen  the only file to read
    raises  UserError for several files that name no split, and where nothing can be used
    """
    listing = Listing("VIA", tree.root)
    files = tree.of_kind("via") if chosen is None else [chosen.name]
    splits = [split_in(file) or split_of(Path(file).stem.split("_")[-1]) for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(files)):
        raise UserError(f"{tree.root} holds {few(files)}: name the one to read, such as --data {tree.root / files[0]}.")
    taken: set[str] = set()
    for file, split in zip(files, splits):
        content = read_json(tree.root / file)
        regions = content.get("_via_img_metadata", content)
        entries = [one for one in regions.values() if isinstance(one, dict) and "filename" in one]
        key = _key([region for entry in entries for region in _regions(entry)], listing)
        for entry in progress(entries, "VIA"):
            name = str(entry["filename"]).replace("\\", "/")
            there = _picture(tree, file, name)
            if there is None or there in taken:
                listing.refuse("missing" if there is None else "described twice", name)
            else:
                taken.add(there)
                _add(tree, there, split, entry, key, listing)
    return listing.found()


def _picture(tree: Tree, file: str, name: str) -> str | None:
    """The picture of a name: beside the file, in images/, else the only one that is called so."""
    place = file.rpartition("/")[0]
    tried = [f"{place}/{name}".lstrip("/"), name, f"images/{name}", f"{place}/images/{name}".lstrip("/")]
    there = next((one for one in tried if one in tree.files), None)
    if there is None:
        ends = tree.by_name.get(folded(name.rpartition("/")[2]), [])
        there = ends[0] if len(ends) == 1 else None
    return there


def _add(tree: Tree, name: str, split: str | None, entry: dict, key: str | None, listing: Listing) -> None:
    try:
        size = sizes_of(tree.root / name)[0]
    except UserError:
        return listing.refuse("that cannot be read", name)
    listing.add(name, size, split, _objects(entry, key, name, listing))


def _regions(entry: dict) -> list[dict]:
    """VIA 1 numbers them in an object, VIA 2 has a list."""
    given = entry.get("regions")
    listed = list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else []
    return [one for one in listed if isinstance(one, dict)]


def _key(regions: list[dict], listing: Listing) -> str | None:
    """The attribute that names classes."""
    keys = {
        str(key): None
        for one in regions
        if isinstance(one.get("region_attributes"), dict)
        for key in one["region_attributes"]
    }
    chosen = next((key for name in NAMES for key in keys if key.casefold() == name), next(iter(keys), None))
    if len(keys) > 1:
        listing.said.append(f"regions have the attributes {few(keys)}: {chosen} is taken for the class.")
    return chosen


def _objects(entry: dict, key: str | None, name: str, listing: Listing) -> list[tuple[str, list]]:
    found = []
    for region in _regions(entry):
        shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
        value = attributes.get(key) if isinstance(attributes, dict) else None
        if isinstance(value, dict):
            # Check boxes, of which one is ticked.
            value = next((str(option) for option, ticked in value.items() if ticked), None)
        if key is not None and not value:
            listing.drop(f"without a {key}", name)
            continue
        polygon = _polygon(shape if isinstance(shape, dict) else {})
        if polygon is None:
            listing.drop(f"that are no areas but a {shape.get('name') if isinstance(shape, dict) else 'region'}", name)
            continue
        found.append((str(value) if key is not None else "object", [polygon]))
    return found


def _polygon(shape: dict[str, Any]) -> list[float] | None:
    kind = shape.get("name")
    if kind in ("polygon", "polyline"):
        given = [shape.get(f"all_points_{axis}") for axis in "xy"]
        xs, ys = ([number(value) for value in one] if isinstance(one, list) else [] for one in given)
        pairs = list(zip(xs, ys)) if len(xs) == len(ys) >= 3 and kind == "polygon" else [(None, None)]
        values = [value for pair in pairs for value in pair if value is not None]
        return values if len(values) == 2 * len(pairs) else None
    names = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    numbers = [one for name in names.get(str(kind), ()) if (one := number(shape.get(name))) is not None]
    if len(numbers) != 4:
        return None
    x, y, across, down = numbers
    if kind == "rect":
        return [x, y, x + across, y, x + across, y + down, x, y + down]
    tilt = number(shape.get("theta")) or 0.0
    points = [(across * math.cos(turn), down * math.sin(turn)) for turn in _turns()]
    turned = [
        (x + a * math.cos(tilt) - b * math.sin(tilt), y + a * math.sin(tilt) + b * math.cos(tilt)) for a, b in points
    ]
    return [value for point in turned for value in point]


def _turns() -> list[float]:
    return [2 * math.pi * place / SIDES for place in range(SIDES)]
