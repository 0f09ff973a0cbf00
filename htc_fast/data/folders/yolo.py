"""YOLO's outlines: data.yaml, pictures below images/, and beside them labels/ with a line of shares per object.

supervision reads these too, but rounds the corners to whole pixels and makes a bitmap of each: here they stay polygons.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from htc_fast.data.folders.listing import Found, Listing, common_root, elsewhere, numbered_names, progress, sizes_of
from htc_fast.data.folders.tree import Tree, split_in, split_of
from htc_fast.data.numbers import as_json, number, whole
from htc_fast.errors import UserError, brief, few

SHARES = (-0.5, 1.5)  # where a corner may lie: a little beyond the picture happens, pixels for shares are a mistake
SPLITS = {"train", "val", "valid", "test"}
USUAL = ("data.yaml", "dataset.yaml", "data.yml")


def looks_like(tree: Tree) -> bool:
    """Whether there is a data.yaml, or labels/ of the pictures in images/."""
    return bool(_yamls(tree)) or any(
        label in tree.files for name in tree.pictures if _below_images(name) for label in _label_names(name)
    )


def read(tree: Tree, chosen: Path | None = None) -> Found:
    """Read a YOLO folder.

    chosen  its YAML file, where it is named
    raises  UserError for a YAML file that names no classes, places that are missing, labels without outlines
    """
    file = chosen or _choose(tree)
    listing = Listing("YOLO", tree.root)
    about = {} if file is None else _load(file)
    names = _class_file(tree, listing) if file is None else _names(about, file)
    splits: list[tuple[str | None, Path]]
    splits = [(split, path) for split in ("train", "val", "test") for path in _of(about, split, file, tree, listing)]
    if not about.keys() & SPLITS:
        base = Path(os.path.abspath(tree.root))
        splits = [(split_in(one), base / one) for one in tree.pictures if _below_images(one)]
    listing.classes = None if names is None else list(names.values())
    splits = _each_once(splits, listing)
    listing.root = common_root(tree.root, [path for _, path in splits])
    files = [Path(file) for _, path in splits for file in (str(path), *_label_names(path.as_posix()))]
    listing.others = sorted({file.parent for file in files if not file.is_relative_to(os.path.abspath(tree.root))})
    _add_all(tree, splits, names, listing)
    return listing.found()


def _add_all(tree: Tree, splits: list[tuple[str | None, Path]], names: dict[int, str] | None, listing: Listing) -> None:
    boxes, empty = 0, []
    for split, path in progress(splits, "YOLO"):
        try:
            size = sizes_of(path)[0]
        except UserError:
            listing.refuse("missing or unreadable", path.name)
            continue
        name, lines = path.relative_to(listing.root).as_posix(), _labels(path, listing.root)
        if lines is None:
            empty.append(name)
        found, only = _objects(lines or [], size, names, listing)
        boxes += only
        listing.add(name, size, split, found)
    if empty:
        listing.said.append(
            f"{len(empty)} of {len(listing.pictures)} pictures have no label file and are taken for empty ones, such "
            f"as {empty[0]}."
        )
    if boxes and not any(objects for *_, objects in listing.pictures):
        raise UserError(
            f"{tree.root} is YOLO with boxes alone ({boxes} lines of a class and 4 numbers): instance segmentation "
            "needs outlines, lines of a class and x y of every corner, as YOLO-seg has them."
        )


def _yamls(tree: Tree) -> list[str]:
    """YAML files that name classes and a split: in the folder itself, else those one or two folders in."""
    every = [name for name in tree.files if name.lower().endswith((".yaml", ".yml")) and name.count("/") <= 2]
    found = [name for name in every if "/" not in name and _tells(tree.root / name)]
    return found or [name for name in every if "/" in name and _tells(tree.root / name)]


def _tells(path: Path) -> bool:
    try:
        about = _load(path)
    except UserError:
        return path.name in USUAL
    return "names" in about and bool({"nc", *SPLITS} & about.keys())


def _choose(tree: Tree) -> Path | None:
    found = _yamls(tree)
    first = next((name for name in USUAL if name in found), None)
    if first is None and len(found) > 1:
        raise UserError(f"{tree.root} holds {few(found)}: name the one to read, such as --data {tree.root / found[0]}.")
    return tree.root / (first or found[0]) if found else None


def _load(path: Path) -> dict[str, Any]:
    try:
        about = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as YAML ({reason}): correct it.") from None
    if not isinstance(about, dict):
        raise UserError(f"{path} holds {as_json(about)}: expected train, val and names.")
    return about


def _names(about: dict, file: Path) -> dict[int, str]:
    """Class names by number."""
    names, count = about.get("names"), whole(about.get("nc"))
    if names is None and count:
        names = [str(place) for place in range(count)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    numbers = [whole(key) for key in names] if isinstance(names, dict) else [None]
    plain = isinstance(names, dict) and all(isinstance(one, (str, int, float)) for one in names.values())
    if not names or not plain or None in numbers:
        raise UserError(f"{file} has {as_json(names)} for 'names': expected a list of class names, or names by number.")
    order = sorted(zip((one for one in numbers if one is not None), map(str, names.values())))
    return dict(zip([one for one, _ in order], numbered_names([name for _, name in order])))


def _class_file(tree: Tree, listing: Listing) -> dict[int, str] | None:
    """The names of classes.txt, one a line, as Label Studio writes them; None where there is no such file."""
    path = next((tree.root / one for one in ("classes.txt", "labels/classes.txt") if one in tree.files), None)
    if path is None:
        listing.said.append("there is no data.yaml and no classes.txt, so classes are called by their numbers.")
        return None
    lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    return dict(enumerate(numbered_names([line.strip() for line in lines if line.strip()])))


def _of(about: dict, split: str, file: Path | None, tree: Tree, listing: Listing) -> Iterator[Path]:
    """The pictures of a split."""
    if file is None:
        return
    given = about.get(split)
    given = about.get("valid") if split == "val" and given is None else given
    base = Path(os.path.abspath(file.parent))
    told = base / str(about.get("path") or "")
    for one in given if isinstance(given, list) else [given] if given else []:
        name = str(one)
        # Roboflow writes ../train/images for a folder beside the file.
        tried = (told / name, base / name, base / name.replace("\\", "/").removeprefix("../"))
        place = next((path for path in tried if os.path.exists(path)), None) or _within(base, name, listing)
        if place is None and split == "test":
            listing.said.append(f"{file.name} names test pictures in {brief(name)}, which is missing.")
        elif place is None:
            hint = ", or delete the line, and a part of train is held out" if split == "val" else ""
            raise UserError(f"{file} names pictures of {split} in {brief(name)}, which is missing: correct that{hint}.")
        else:
            place = Path(os.path.normpath(place))
            if place.is_dir():
                yield from (place / name for name in Tree(place).pictures)
            else:
                yield from _listed(place, told, tree, listing)


def _within(base: Path, name: str, listing: Listing) -> Path | None:
    """A place on another machine or above the file, C:\\data\\train\\images, where its end is in the file's folder."""
    parts = [one for one in re.split(r"[\\/]", name) if one not in ("", ".")]
    if not name.startswith(("/", "\\", "..")) and not re.match(r"[A-Za-z]:", name):
        return None
    for first in range(1, len(parts)):
        end = parts[first:]
        # One word alone may be any folder's.
        if ".." not in end and (len(end) > 1 or split_of(Path(end[0]).stem)) and os.path.exists(base.joinpath(*end)):
            listing.said.append(f"{brief(name)} is missing: {'/'.join(end)} is taken for it.")
            return base.joinpath(*end)
    return None


def _listed(place: Path, told: Path, tree: Tree, listing: Listing) -> Iterator[Path]:
    """The pictures that a list names: beside it, in the data's folder, else those that share the longest end."""
    other: list[tuple[str, str]] = []
    for line in place.read_text(encoding="utf-8-sig", errors="replace").split("\n"):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        found = next((one for one in (place.parent / name, told / name) if os.path.isfile(one)), None)
        end = tree.longest_end(name) if found is None else None
        if end is not None:
            found = Path(os.path.abspath(tree.root)) / end
            other.append((name, end))
        if found is None:
            listing.refuse("missing or unreadable", line.strip())
        else:
            yield Path(os.path.normpath(found))
    listing.said += elsewhere(place.name, other)


def _each_once(splits: list[tuple[str | None, Path]], listing: Listing) -> list[tuple[str | None, Path]]:
    """Each picture in the last split that names it, so that none is trained on and held out at once."""
    found = {path: split for split, path in splits}
    if len(found) < len(splits) and len({split for split, _ in splits}) > len(set(found.values())):
        # A data set to try things on has one folder for both, and so have predictions.
        said = "the same pictures are named for training and for validation, so they are divided anew."
        listing.said += [said] if len(found) > 1 else []
        return [("train", path) for path in found]
    if len(found) < len(splits):
        listing.said.append(
            f"{len(splits) - len(found)} pictures are named twice and count once, where they are held out."
        )
    return [(split, path) for path, split in found.items()]


def _below_images(name: str) -> bool:
    return any(part.lower() == "images" for part in name.split("/")[:-1])


def _label_names(name: str) -> list[str]:
    """What the label file of a picture may be called: the last images/ on its path becomes labels/, Images/ Labels/."""
    parts = name.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part.lower() == "images"]
    words = ["labels"] if places else []
    if places and parts[places[-1]] != "images":
        words.append("LABELS" if parts[places[-1]].isupper() else "Labels")
    names = ["/".join([*parts[: places[-1]], word, *parts[places[-1] + 1 :]]) for word in words] or [name]
    return [os.path.splitext(one)[0] + ".txt" for one in names]


def _labels(path: Path, root: Path) -> list[str] | None:
    """The lines of a picture's label file; None where it has no file."""
    names = _label_names(path.as_posix())
    if not _below_images(path.relative_to(root).as_posix()):
        # The folder of the data set may lie in one that is called images.
        names.append(os.path.splitext(path)[0] + ".txt")
    for name in names:
        try:
            return Path(name).read_text(encoding="utf-8-sig", errors="replace").split("\n")
        except OSError:
            continue
    return None


def _objects(
    lines: list[str], size: tuple[int, int], names: dict[int, str] | None, listing: Listing
) -> tuple[list[tuple[str, list]], int]:
    """Classes and polygons of a label file's lines, and how many lines are boxes."""
    found, boxes = [], 0
    for line in dict.fromkeys(one.strip() for one in lines):
        if not line:
            continue
        values = [number(one) for one in line.split()]
        label, corners = whole(values[0]), [one for one in values[1:] if one is not None]
        name = str(label) if names is None else None if label is None else names.get(label)
        if label is None or label < 0 or len(corners) + 1 < len(values):
            listing.drop("in a line that is no numbers", line)
        elif name is None:
            listing.drop("of a class number that data.yaml does not name", label)
        elif len(corners) in (4, 5):
            boxes += 1
            listing.drop("with a box alone", line)
        elif len(corners) < 6 or len(corners) % 2:
            listing.drop("with no outline of three corners", line)
        elif min(corners) < SHARES[0] or max(corners) > SHARES[1]:
            listing.drop("with corners that are no shares of the picture, from 0 to 1", line)
        else:
            found.append((name, [[value * size[1 - place % 2] for place, value in enumerate(corners)]]))
    return found, boxes
