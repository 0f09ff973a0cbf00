"""Where a split of a data set lies: COCO's own layout as it is, any other format converted once into the cache."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from htc_fast.data.cache import cache_folder
from htc_fast.data.folders import coco_files, labelled, labelme, via, voc, yolo
from htc_fast.data.folders.divide import SEED, divide
from htc_fast.data.folders.listing import Found, Part
from htc_fast.data.folders.places import find_annotations, no_annotations
from htc_fast.data.folders.tree import Tree, kind_of_json, split_of
from htc_fast.data.numbers import as_json
from htc_fast.errors import UserError, few, say_once

VERSION = 2  # to be raised with every change of what is written
KEPT = 3  # conversions of one folder
ABOUT = "about.json"
NATIVE = ("train", "val", "test")  # splits that COCO's own layout is asked for


class Place(NamedTuple):
    """A split's annotation file and the folder of its pictures; None: where COCO has them."""

    annotations: Path
    images: Path | None


class Format(NamedTuple):
    """A format: what recognises and what reads it, and the words for what that looks for."""

    name: str
    looks_like: Callable[[Tree], bool]
    read: Callable[[Tree], Found]
    sought: str


# The first that fits is read.
FORMATS = (
    Format("COCO", coco_files.looks_like, coco_files.read, "COCO (annotations/instances_*.json or any such file)"),
    Format("YOLO", yolo.looks_like, yolo.read, "YOLO (data.yaml, images/ and labels/)"),
    Format("Pascal VOC", voc.looks_like, voc.read, "Pascal VOC (JPEGImages/ and SegmentationObject/)"),
    Format("labelme", labelme.looks_like, labelme.read, "labelme (a JSON file beside each picture)"),
    Format("VIA", via.looks_like, via.read, "VIA (via_region_data.json)"),
    Format(
        "label maps", labelled.looks_like, labelled.read, "label maps (a_masks.png beside a.png, images/ and masks/)"
    ),
    Format(
        "bitmaps", labelled.looks_like_bitmaps, labelled.read_bitmaps, "a folder per picture with images/ and masks/"
    ),
)


def find_split(root: Path, split: str, held_out: bool | None = None) -> Place:
    """Where a split lies.

    root      a folder, or the one file in it that describes it: data.yaml, a COCO or VIA file
    held_out  whether a missing "val" is taken out of "train"; None: but for a COCO file of that split, which is whole
    raises    UserError saying what was looked for and what is there
    """
    _check_there(root)
    name = split_of(split) or split
    if root.is_dir():
        there, val = _as_coco_has_it(root, split), _as_coco_has_it(root, "val")
        if there is not None and (name != "train" or val is not None or not held_out):
            return Place(there, None)
        if there is None and val is not None and name != "train":
            raise no_annotations(root, split)
    about, target = _converted(root)
    for sentence in about["said"]:
        say_once(sentence)
    if held_out is False and name == "train" and "all" in about["parts"]:
        name = "all"
    part = about["parts"].get(name)
    if part is None and about["form"] == "COCO" and root.is_dir():
        raise no_annotations(root, split)
    if part is None:
        names = few(about["parts"])
        raise UserError(f"{root} has no split {split!r}: it is read as {about['form']} and has {names}.")
    return Place(target / part["annotations"], Path(part["images"]))


def splits_in(root: Path) -> list[str]:
    """Names of the splits of a folder, or of the one file that describes it; see `find_split`.

    raises  UserError where nothing is read there
    """
    _check_there(root)
    there = [name for name in NATIVE if root.is_dir() and _as_coco_has_it(root, name) is not None]
    return there or [name for name in _converted(root)[0]["parts"] if name != "all"]


def _as_coco_has_it(root: Path, split: str) -> Path | None:
    """COCO's file of a split where COCO keeps it, unless its names are another machine's."""
    found = find_annotations(root, split)
    return None if found is None or coco_files.leads_elsewhere(found) else found


def _check_there(root: Path) -> None:
    if not root.exists():
        raise UserError(f"data set folder {root} is missing: expected a folder with annotations/ and pictures.")


def _converted(root: Path) -> tuple[dict[str, Any], Path]:
    """What is told of a folder, and where its files are; read again only where something in it changed."""
    tree = Tree(root.parent if root.is_file() else root)
    name = re.sub(r"[^\w.-]+", "_", tree.root.absolute().name) or "data"
    place = cache_folder() / "folders" / f"{name}-{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:10]}"
    target = place / f"{VERSION}-{tree.key}"
    about = _about(target)
    if about is None:
        with _alone(place):
            about = _about(target)
            if about is None:
                found = _read(root, tree)
                about = _write(target, name, root, found)
    return about, target


def _read(root: Path, tree: Tree) -> Found:
    if root.is_file():
        return _read_file(root, tree)
    looked = [one for one in FORMATS if one.looks_like(tree)]
    if not looked:
        raise _unknown(root, tree)
    found = looked[0].read(tree)
    if len(looked) > 1:
        others = " and ".join(one.name for one in looked[1:])
        found.said.append(f"it looks like {others} too; {looked[0].name} is what is read.")
    return found


def _read_file(file: Path, tree: Tree) -> Found:
    if file.suffix.lower() in (".yaml", ".yml"):
        return yolo.read(tree, file)
    kind = kind_of_json(file) if file.suffix.lower() == ".json" else ""
    if kind == "coco":
        return coco_files.read(tree, file)
    if kind == "via":
        return via.read(tree, file)
    hint = f", or its folder {file.parent} for all" if kind == "labelme" else ""
    raise UserError(f"{file} describes no data set: name a folder, a data.yaml, or a COCO or VIA JSON file{hint}.")


def _unknown(root: Path, tree: Tree) -> UserError:
    kinds = Counter(os.path.splitext(name)[1].lower() for name in tree.files)
    folders = sorted({name.split("/")[0] + "/" for name in tree.files if "/" in name})
    files = few(f"{count} {suffix}" for suffix, count in kinds.most_common())
    there = f"{files}{' in ' + few(folders) if folders else ''}" if kinds else "no pictures and no annotations"
    hint = ""
    if any(name.endswith("_seg.npy") for name in tree.files):
        hint = "; _seg.npy are pickles, which may run code: save masks as PNG or TIFF in Cellpose"
    return UserError(
        f"{root} has no annotations that are read: looked for {', '.join(one.sought for one in FORMATS)}; "
        f"found {there}{hint}."
    )


def _write(target: Path, name: str, root: Path, found: Found) -> dict[str, Any]:
    """Write what was read; the whole folder appears at once."""
    whole = next((one for one in ("train", "all") if one in found.parts), None)
    remark, parts = "", dict(found.parts)
    if "val" not in parts and whole is not None:
        remark, parts = _divided(parts, whole)
    written = any(part.annotations is None for part in parts.values())
    converted = f"; converted to {target}" if written else ""
    said = [f"{root} is read as {found.form}: {_counted(found)}{remark}{converted}."]
    said += [f"{root.name}: {sentence}" for sentence in found.said]
    about: dict[str, Any] = {
        "form": found.form,
        "said": said,
        "others": {str(one): Tree(one).key for one in found.others},
        "parts": {},
    }
    try:
        partial = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            for split, part in parts.items():
                file = Path(os.path.abspath(part.annotations)) if part.annotations else Path(f"{name}-{split}.json")
                about["parts"][split] = {"annotations": str(file), "images": str(Path(os.path.abspath(part.images)))}
                if part.annotations is None:
                    (partial / file).write_text(json.dumps(part.content))
            (partial / ABOUT).write_text(json.dumps(about))
            partial.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise _unwritable(target, error) from None
    older = sorted((one for one in target.parent.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    for one in older[:-KEPT]:
        shutil.rmtree(one, ignore_errors=True)
    return about


def _divided(parts: dict[str, Part], whole: str) -> tuple[str, dict[str, Part]]:
    part = parts[whole]
    content = part.content or {}
    for key in ("annotations", "images"):
        if not isinstance(content.get(key), list) or not all(isinstance(one, dict) for one in content[key]):
            raise UserError(
                f"{part.annotations or part.images} has no list of {key!r}, but {as_json(content.get(key))}: it cannot "
                "be divided into pictures to train on and others to evaluate on."
            )
    train, val = divide(content)
    count, held = len(content["images"]), len(val["images"])
    remark = f"; it has no val, so {held} of {count} pictures are held out of train (by class, seed {SEED})"
    if count == 1:
        remark = "; of one picture none can be held out, so it is evaluated on what it was trained on"
    rest = {split: one for split, one in parts.items() if split != whole}
    return remark, {"train": Part(part.images, None, train), "val": Part(part.images, None, val), "all": part, **rest}


def _counted(found: Found) -> str:
    """How many pictures, in each split, and of which classes."""
    contents = {split: part.content or {} for split, part in found.parts.items()}
    counts = {split: len(content.get("images") or ()) for split, content in contents.items()}
    listed = next(iter(contents.values())).get("categories")
    names = [str(one.get("name")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    total, by_split = sum(counts.values()), ", ".join(f"{count} {split}" for split, count in counts.items())
    return (
        f"{total} picture{'s' * (total != 1)}{f' ({by_split})' if len(counts) > 1 else ''}, "
        f"{len(names)} class{'es' * (len(names) != 1)} ({few(names)})"
    )


def _about(target: Path) -> dict[str, Any] | None:
    """What was told of a folder; None where that is gone, half there, or of other folders that have changed."""
    try:
        about = json.loads((target / ABOUT).read_bytes())
        there = all((target / one["annotations"]).is_file() for one in about["parts"].values())
        same = all(Tree(Path(place)).key == key for place, key in about["others"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return about if there and same else None


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process converts, the others of a run wait for what it makes."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = open(place / ".lock", "w")
    except OSError as error:
        raise _unwritable(place, error) from None
    with lock:
        # Some network drives have no locks: everyone converts then.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unwritable(place: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write what was read to {place} ({error.strerror}): make room there, or name another folder as "
        "XDG_CACHE_HOME."
    )
