"""COCO files in other layouts than COCO's (CVAT, Label Studio, VIA, Roboflow): one file for all, names of uploads."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from htc_fast.data.annotations import read_annotations
from htc_fast.data.folders.listing import Found, Part, elsewhere, sizes_of
from htc_fast.data.folders.places import find_images
from htc_fast.data.folders.tree import HEAD, Tree, split_in, split_of
from htc_fast.data.names import Folder, folded
from htc_fast.data.numbers import identity
from htc_fast.data.reading import read_json
from htc_fast.errors import UserError, brief, few

OTHERS = ("panoptic_", "captions_", "image_info_", "person_keypoints_", "stuff_")
_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def looks_like(tree: Tree) -> bool:
    """Whether there is a COCO file of instances."""
    return bool(_files(tree))


def leads_elsewhere(path: Path) -> bool:
    """Whether the first picture of a COCO file is named from the root of a machine; only its beginning is read."""
    try:
        with open(path, "rb") as file:
            name = _NAME.search(file.read(HEAD))
        return name is not None and _foreign(json.loads(name[1]))
    except (OSError, ValueError):
        return False


def read(tree: Tree, chosen: Path | None = None) -> Found:
    """Read the COCO files of a folder.

    chosen  the only one to read
    raises  UserError where two files may be meant, or pictures are missing
    """
    named: dict[str, list[str]] = defaultdict(list)
    for name in _files(tree) if chosen is None else [chosen.name]:
        named[(chosen is None and _split(name)) or "all"].append(name)
    found = Found("COCO", {})
    if "all" in named and len(named) > 1:
        found.said.append(f"{few(named.pop('all'))} name no split and are left out.")
    for split, names in named.items():
        usual = [one for one in names if os.path.basename(one).startswith("instances")]
        if len(usual or names) > 1:
            what = "any split" if split == "all" else f"split {split}"
            raise UserError(
                f"{tree.root} holds {len(names)} COCO files for {what} ({few(names)}): name one, such as --data "
                f"{tree.root / names[0]} (in training --train-json, --val-json)."
            )
        found.parts[split] = _part(tree, (usual or names)[0], split, found)
    return found


def _files(tree: Tree) -> list[str]:
    return [one for one in tree.of_kind("coco") if not os.path.basename(one).startswith(OTHERS) and one.count("/") <= 3]


def _split(name: str) -> str | None:
    """The split that a file's name or folder says: instances_Train.json, train/_annotations.coco.json."""
    words = re.split(r"[_.\s-]+", PurePosixPath(name).stem)
    return next((split for word in reversed(words) if (split := split_of(word))), None) or split_in(name)


def _part(tree: Tree, name: str, split: str, found: Found) -> Part:
    """A file with the folder of its pictures; with its names corrected where the pictures are called otherwise."""
    path = tree.root / name
    content = read_json(path)
    images = content.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(one, dict) for one in images):
        read_annotations(path)  # which says what is wrong
    names = [str(one.get("file_name") or "") for one in content["images"]]
    sized = all(one.get("height") is not None or one.get("width") is not None for one in content["images"])
    if sized and all(names) and not any(map(_foreign, names)):
        try:
            folder = find_images(path, tree.root, split, None, names[:1])
            if not Folder(folder).find(names)[1]:
                return Part(folder, path, content)
        except UserError:
            pass
    return _renamed(tree, path, content, names, found)


def _foreign(name: str) -> bool:
    """Whether a name begins at the root of a machine or leaves its folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(re.match(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]+://|[\\/]", name)) or ".." in parts


def _renamed(tree: Tree, path: Path, content: dict[str, Any], names: list[str], found: Found) -> Part:
    """The content with the names of pictures that share the longest end with the file's."""
    files = [tree.longest_end(name) for name in names]
    missing = [name for name, file in zip(names, files) if file is None]
    several = {name: tree.by_name.get(folded(re.split(r"[\\/]", name)[-1]), []) for name in missing}
    name = next((name for name, some in several.items() if len(some) > 1), None)
    if name is not None:
        found.said.append(
            f"{path.name}: picture {brief(name)} may be {several[name][0]} or {several[name][1]}, so it counts as "
            "missing: write the folder into its name, or move the others away."
        )
    twice = len(set(files) - {None}) < len(files) - len(missing)
    if len(missing) == len(names) or twice:
        # COCO's own rules say which pictures are missing, and where they were looked for.
        return Part(tree.root, path, content)
    other = [(name, file) for name, file in zip(names, files) if file is not None and name != file]
    found.said += elsewhere(path.name, other)
    if missing:
        found.said.append(f"{path.name}: {len(missing)} of {len(names)} pictures are missing ({few(missing, most=3)}).")
    images = [_measured({**one, "file_name": file}, tree) for one, file in zip(content["images"], files) if file]
    gone = {identity(one.get("id")) for one, file in zip(content["images"], files) if file is None}
    annotations = content.get("annotations")
    if isinstance(annotations, list) and gone:
        annotations = [
            one for one in annotations if isinstance(one, dict) and identity(one.get("image_id")) not in gone
        ]
    changed = {"images": images, **({} if annotations is None else {"annotations": annotations})}
    return Part(tree.root, content={**content, **changed})


def _measured(image: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """An image with its size, which Label Studio leaves out where it had no picture and no object."""
    if image.get("height") is None and image.get("width") is None:
        image["height"], image["width"] = sizes_of(tree.root / image["file_name"])[0]
    return image
