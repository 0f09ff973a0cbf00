"""What was read of a folder in whatever format, and the same as COCO."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from htc_fast.data import runs
from htc_fast.data.annotations import Tally
from htc_fast.data.decode import ORIENTATION, opened
from htc_fast.data.masks import Segmentation, to_rles, usable
from htc_fast.errors import UserError, brief

SPLITS = ("train", "val", "test", "all")
DECIMALS = 4  # of a polygon's pixels


@dataclass
class Part:
    """A split: the content of its annotation file, which is to be written unless it lies there as it is."""

    images: Path
    annotations: Path | None = None
    content: dict[str, Any] | None = None


def elsewhere(file: str, moved: list[tuple[str, str]]) -> list[str]:
    """What to say of the pictures of a file that were found by another name than its own: (its name, the picture)."""
    if not moved:
        return []
    name, picture = moved[0]
    many = f"{file}: {len(moved)} pictures lie elsewhere than their names say"
    return [f"{many}, such as {brief(name)}, which is {picture}."]


@dataclass
class Found:
    """A folder as it was read.

    form    its format's name
    parts   "train", "val", "test", or "all" where it has no splits
    said    sentences that a user should read
    others  folders besides its own that were read
    """

    form: str
    parts: dict[str, Part]
    said: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


@dataclass
class Listing:
    """Pictures and their objects, as a reader collects them.

    root     folder that the pictures' names are relative to
    classes  in their order; None: those that occur, sorted
    """

    form: str
    root: Path
    classes: list[str] | None = None
    said: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    pictures: list[tuple[str, tuple[int, int], str | None, list]] = field(default_factory=list)
    refused: Tally = field(default_factory=Tally)
    dropped: Tally = field(default_factory=Tally)
    total: int = 0

    def add(
        self, name: str, size: tuple[int, int], split: str | None, objects: Iterable[tuple[str, Segmentation | None]]
    ) -> None:
        """A picture and its objects, each a class and a mask, which is None where it is malformed."""
        kept: list[tuple[str, Segmentation]] = []
        for label, given in objects:
            # Counts in bytes are our own encoder's, which need no second look.
            ours = isinstance(given, dict) and isinstance(given["counts"], bytes)
            mask = given if ours or given is None else usable(given, *size)
            if mask is None:
                self.drop("with a malformed outline", name)
            else:
                self.total += 1
                kept.append((label, mask))
        self.pictures.append((name, size, split, self._measured(name, size, kept)))

    def refuse(self, reason: str, name: object) -> None:
        """Count a picture that is not used."""
        self.refused.add(reason, name)

    def drop(self, reason: str, example: object) -> None:
        """Count an object that is not used."""
        self.total += 1
        self.dropped.add(reason, example)

    def found(self) -> Found:
        """All of it, split as the folders say.

        raises  UserError where no picture or no object is left
        """
        self._check()
        names = self.classes if self.classes is not None else sorted({one[0] for p in self.pictures for one in p[3]})
        splits = {split for _, _, split, _ in self.pictures}
        # One name over everything, such as val alone, divides nothing; what has none beside others is trained on.
        only = "train" if splits == {"train"} else "all"
        by_split: dict[str, list] = {}
        for name, size, split, objects in self.pictures:
            by_split.setdefault(only if len(splits) == 1 else split or "train", []).append((name, size, objects))
        parts = {one: Part(self.root, content=_content(by_split[one], names)) for one in SPLITS if one in by_split}
        return Found(self.form, parts, self._remarks(), self.others)

    def _measured(self, name: str, size: tuple[int, int], objects: list[tuple[str, Segmentation]]) -> list[tuple]:
        if not objects:
            return []
        rles = to_rles([mask for _, mask in objects], *size)
        kept = []
        for (label, mask), area, (left, top, right, bottom) in zip(objects, *runs.sizes(rles)):
            if area:
                kept.append((label, _for_json(mask), [left, top, right - left, bottom - top], area))
            else:
                self.dropped.add("without a pixel in the picture", name)
        return kept

    def _check(self) -> None:
        why = [f"{tally}" for tally in (self.refused, self.dropped) if tally.counts]
        told = f" (not used: {'; '.join(why)})" if why else ""
        if not self.pictures:
            raise UserError(f"{self.root} looks like {self.form}, but no picture of it can be used{told}.")
        if not any(objects for *_, objects in self.pictures):
            raise UserError(
                f"{self.root} looks like {self.form}, but its {len(self.pictures)} pictures have no object with an "
                f"outline{told}."
            )

    def _remarks(self) -> list[str]:
        said = list(self.said)
        if self.refused.counts:
            count = self.refused.counts.total()
            said.append(f"{count} of {count + len(self.pictures)} pictures are not used ({self.refused}).")
        if self.dropped.counts:
            said.append(f"{self.dropped.counts.total()} of {self.total} objects are not used ({self.dropped}).")
        return said


def _content(pictures: Sequence[tuple], names: Sequence[str]) -> dict[str, Any]:
    """A COCO file's content."""
    ids = {name: place + 1 for place, name in enumerate(names)}
    images: list[dict] = []
    annotations: list[dict] = []
    for number, (name, (height, width), objects) in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, mask, box, area in objects:
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[label], "iscrowd": 0}
            annotations.append({**about, "bbox": box, "area": area, "segmentation": mask})
    categories = [{"id": place, "name": name} for name, place in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _for_json(mask: Segmentation) -> Segmentation:
    if isinstance(mask, list):
        return [[round(value, DECIMALS) for value in part] for part in mask]
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def sizes_of(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a picture turned upright as its EXIF says, and as it is stored.

    raises  UserError if it cannot be read
    """
    with opened(path, f"picture {path}") as picture:
        width, height = picture.size
        # Pillow gives a TIFF's size upright, and decodes a whole PNG to look for EXIF.
        turns = picture.format in ("JPEG", "MPO", "WEBP") and picture.getexif().get(ORIENTATION, 1) in range(5, 9)
    return ((width, height) if turns else (height, width)), (height, width)


def numbered_names(names: Sequence[str]) -> list[str]:
    """Class names, of which two that are alike get their numbers added: outlines know classes by name here."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({place})" for place, name in enumerate(names)]


def common_root(root: Path, paths: Sequence[Path]) -> Path:
    """The folder itself, or what it has in common with pictures that lie elsewhere."""
    inside = os.path.abspath(root) + os.sep
    if all(str(path).startswith(inside) for path in paths):
        return Path(os.path.abspath(root))
    return Path(os.path.commonpath([os.path.abspath(root), *(path.parent for path in paths)]))


def progress(items: Sequence, form: str) -> Iterable:
    """Items with a bar where somebody watches and it takes longer than a moment."""
    return tqdm(items, desc=f"reading {form}", unit=" pictures", disable=None, delay=1, leave=False)
