"""COCO's own layout: where a split's annotations and pictures lie."""

import os
from collections.abc import Sequence
from pathlib import Path

from htc_fast.data.names import Folder
from htc_fast.errors import UserError, brief, few


def split_names(split: str, annotations: Path | None = None) -> list[str]:
    """What files and folders of a split may be called, most likely first."""
    names = [f"{split}2017", split]
    if split in ("val", "valid"):
        names += ["valid", "val", "validation"]
    if annotations is not None:
        names.insert(0, annotations.stem.removeprefix("instances_"))
    return list(dict.fromkeys(names))


def find_annotations(root: Path, split: str) -> Path | None:
    """The instances file of a split below a root folder, where COCO keeps it; None if there is none."""
    return next((root / path for path in _tried(split) if (root / path).is_file()), None)


def no_annotations(root: Path, split: str) -> UserError:
    """The error that names what was looked for and what is there."""
    tried = _tried(split)
    there = sorted(str(path.relative_to(root)) for path in [*root.glob("*.json"), *root.glob("annotations/*.json")])
    return UserError(
        f"{root} has no annotation file for split {split!r}: looked for {tried[0]}, {tried[1]} and others, "
        f"found {few(there) or 'no JSON file'}; name one with --annotations "
        "(in training --train-json, --val-json)."
    )


def _tried(split: str) -> list[Path]:
    tried = []
    for name in split_names(split):
        tried += [
            Path("annotations") / f"instances_{name}.json",
            Path("annotations") / f"{name}.json",
            Path(f"{name}.json"),
            Path(name) / "_annotations.coco.json",
        ]
    return tried


def find_images(path: Path, root: Path | None, split: str, images: str | Path | None, names: Sequence[str]) -> Path:
    """The folder that file names are relative to: the first likely one that holds one of the pictures.

    names   of pictures, of which the first is looked for under other spellings too
    raises  UserError if none does
    """
    if images is not None:
        if not Path(images).is_dir():
            raise UserError(f"image folder {images} is missing: check the path.")
        return Path(images)
    bases = dict.fromkeys([*([root] if root else []), path.parent.parent, path.parent])
    parts = split_names(split, path)
    folders = []
    for base in bases:
        folders += [base / place / part for place in ("", "images") for part in parts] + [base / "images", base]
    for folder in folders:
        # A name too long for a file is no error there.
        if any(os.path.isfile(folder / name) for name in names):
            return folder
    for folder in folders:
        if folder.is_dir() and not Folder(folder).find(names[:1])[1]:
            return folder
    base = next(iter(bases))
    raise UserError(
        f"picture {brief(names[0])} of {path} is missing: looked in {base / parts[0]}, {base / 'images'}, {base} and "
        "others; name the folder with --images (in training --train-images, --val-images)."
    )
