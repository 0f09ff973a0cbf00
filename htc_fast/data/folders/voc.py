"""Pascal VOC's instance masks: SegmentationObject has a number per object, SegmentationClass a class per pixel.

supervision reads the boxes and polygons of Annotations alone; the masks, which are the truth of VOC, it does not.
"""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from htc_fast.data.decode import opened
from htc_fast.data.folders.listing import Found, Listing, progress, sizes_of
from htc_fast.data.folders.maps import instances_of, packed, read_map
from htc_fast.data.folders.tree import Tree, split_of
from htc_fast.data.formats import SUFFIXES
from htc_fast.data.numbers import whole
from htc_fast.data.runs import read as read_rles
from htc_fast.errors import UserError, few

NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID = 255  # the border around objects, (224, 224, 192) where maps are stored as colours
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"


def looks_like(tree: Tree) -> bool:
    """Whether there are VOC's folders."""
    return bool(_bases(tree, "JPEGImages/"))


def read(tree: Tree) -> Found:
    """Read a VOC folder, or the one in a VOCdevkit.

    raises  UserError for several of them, for boxes without masks, where nothing can be used
    """
    bases, every = _bases(tree, f"{OBJECTS}/"), _bases(tree, "JPEGImages/")
    if not bases and _bases(tree, f"{CLASSES}/"):
        raise UserError(
            f"{tree.root / every[0]} is Pascal VOC without {OBJECTS}/: {CLASSES}/ alone does not tell objects of one "
            "class apart, which instance segmentation needs."
        )
    if not bases:
        raise UserError(
            f"{tree.root / every[0]} is Pascal VOC without {OBJECTS}/: its boxes are no outlines, which instance "
            "segmentation needs."
        )
    if len(bases) > 1:
        named = few(str(tree.root / one) for one in bases)
        raise UserError(f"{tree.root} holds several VOC folders: name one of them with --data ({named}).")
    reader = _Reader(tree, bases[0])
    listing = Listing("Pascal VOC", tree.root)
    chosen = _splits(tree, bases[0])
    for stem, split in progress(list(chosen.items()), "Pascal VOC"):
        reader.add(stem, split, listing)
    if reader.empty:
        listing.said.append(
            f"{len(reader.empty)} listed pictures have no file in {OBJECTS} and are taken for empty ones, such as "
            f"{reader.empty[0]}."
        )
    used = {label for *_, objects in listing.pictures for label, *_ in objects}
    # VOC's own order, as far as it has the names.
    listing.classes = [one for one in reader.colours.values() if one in used or reader.labelmap]
    listing.classes += sorted(used - set(listing.classes))
    return listing.found()


def colormap(count: int = 256) -> list[int]:
    """VOC's colours as R + 256 G + 65536 B: bits 0, 1, 2 of a number are the highest of red, green, blue, and so on."""
    numbers = np.arange(count)[:, None]
    shifts = np.arange(8)
    colours = [((numbers >> (3 * shifts + channel) & 1) << (7 - shifts)).sum(axis=1) for channel in range(3)]
    return packed(np.stack(colours, axis=1)).tolist()


class _Reader:
    """The files of one VOC folder."""

    def __init__(self, tree: Tree, base: str):
        self.tree, self.base = tree, base
        self.files = {os.path.splitext(one)[0]: one for one in tree.pictures}
        self.labelmap = _labelmap(tree.root / base / "labelmap.txt")
        self.colours = self.labelmap or dict(zip(colormap()[1:], NAMES))
        self.void = colormap()[VOID]
        self.empty: list[str] = []

    def add(self, stem: str, split: str | None, listing: Listing) -> None:
        picture, objects = (self.files.get(f"{self.base}{folder}/{stem}") for folder in ("JPEGImages", OBJECTS))
        if picture is None:
            return listing.refuse("missing in JPEGImages", stem)
        try:
            sizes = sizes_of(self.tree.root / picture)
            if objects is None:
                self.empty.append(stem)
                return listing.add(picture, sizes[0], split, [])
            numbers = self._numbers(objects)
            classes = self.files.get(f"{self.base}{CLASSES}/{stem}")
            colours = None if classes is None else _colours(self.tree.root / classes)
        except UserError:
            return listing.refuse("that cannot be read, or whose masks cannot", stem)
        if numbers.shape not in sizes or (colours is not None and colours.shape != numbers.shape):
            return listing.refuse("of another size than their masks", stem)
        values, rles = instances_of(numbers)
        named = self._by_colour(rles, colours) if colours is not None else self._by_place(stem, values)
        kept = [(name, rle) for name, rle in zip(named, rles) if name is not None]
        for _ in range(len(rles) - len(kept)):
            listing.drop("of no known class", stem)
        listing.add(picture, (numbers.shape[0], numbers.shape[1]), split, kept)

    def _numbers(self, name: str) -> np.ndarray:
        """A map of objects, 0 where there is none or the border between them."""
        numbers = read_map(self.tree.root / name)
        colour = numbers.max(initial=0) > VOID
        return np.where(numbers == (self.void if colour else VOID), 0, numbers)

    def _by_colour(self, rles: list[dict], colours: np.ndarray) -> list[str | None]:
        """Each object's class: what most of its pixels are."""
        flat, masks, found = colours.T.ravel(), read_rles(rles), []
        for begin, end in zip(masks.offsets[:-1].tolist(), masks.offsets[1:].tolist()):
            inside = np.concatenate([flat[a:b] for a, b in masks.runs[begin:end].tolist()])
            kinds, counts = np.unique(inside, return_counts=True)
            found.append(self.colours.get(int(kinds[counts.argmax()])))
        return found

    def _by_place(self, stem: str, values: np.ndarray) -> list[str | None]:
        """Each object's class by the XML file, whose object i has the number i in the mask."""
        path = self.tree.root / f"{self.base}Annotations/{stem}.xml"
        try:
            names = [one.findtext("name") for one in ElementTree.parse(path).getroot().iter("object")]
        except (OSError, ElementTree.ParseError):
            names = []
        return [names[number - 1] if number <= len(names) else None for number in values.tolist()]


def _bases(tree: Tree, folder: str) -> list[str]:
    """Where VOC's folders lie: "" or "VOC2012/", "VOCdevkit/VOC2012/"."""
    found = {name[: name.index(folder)] for name in tree.pictures if folder in name}
    return sorted(one for one in found if one.count("/") <= 2 and (not one or one.endswith("/")))


def _splits(tree: Tree, base: str) -> dict[str, str | None]:
    """Names of pictures by the lists in ImageSets/Segmentation; without lists, all that have masks."""
    lists = f"{base}ImageSets/Segmentation/"
    found: dict[str, str | None] = {}
    rest: dict[str, str | None] = {}
    for file in tree.files:
        if file.startswith(lists) and file.endswith(".txt"):
            stems = (tree.root / file).read_text(encoding="utf-8-sig", errors="replace").split("\n")
            split = split_of(Path(file).stem)
            # What a list names may have its folder and suffix; trainval and default are lists of all.
            names = dict.fromkeys((_bare(one) for one in stems if one.strip()), split)
            (rest if split is None else found).update(names)
    if not found and not rest:
        rest = {
            os.path.splitext(one.removeprefix(f"{base}{OBJECTS}/"))[0]: None
            for one in tree.pictures
            if one.startswith(f"{base}{OBJECTS}/")
        }
    return dict(sorted((found or rest).items()))


def _bare(line: str) -> str:
    stem, suffix = os.path.splitext(line.strip())
    return stem if suffix.lower() in SUFFIXES else line.strip()


def _labelmap(path: Path) -> dict[int, str] | None:
    """Class by colour of a labelmap.txt as CVAT and Datumaro write it, a line name:r,g,b:parts:actions each.

    returns  None without such a file; a line without a colour has VOC's of its place
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError:
        return None
    found, usual = {}, colormap()
    rows = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for place, row in enumerate(rows[: len(usual)]):
        name, _, rest = row.partition(":")
        digits = [whole(one) for one in rest.split(":")[0].split(",")]
        colour = [one for one in digits if one is not None and 0 <= one < 256]
        found[packed(np.array(colour)).item() if len(colour) == 3 else usual[place]] = name
    found.pop(0, None)  # the background
    return found or None


def _colours(path: Path) -> np.ndarray:
    """A map of classes as colours; grey numbers as VOC's colours of these."""
    with opened(path, f"label map {path}") as picture:
        palette = np.array(picture.getpalette("RGB") or []).reshape(-1, 3) if picture.mode == "P" else np.zeros((0, 3))
        # A palette of greys is none: its numbers are what they are.
        if picture.mode == "L" or (len(palette) and (palette == palette[:, :1]).all()):
            return np.array(colormap())[np.array(picture)]
        return packed(np.array(picture.convert("RGB")))
