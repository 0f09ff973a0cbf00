"""Where semantic maps come from: COCO-Stuff pixel maps, COCO panoptic files, or the instance masks themselves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from htc_fast.data import runs
from htc_fast.data.annotations import Picture
from htc_fast.data.masks import to_rles
from htc_fast.data.names import Folder, check_inside
from htc_fast.data.numbers import as_json, different, identity, whole
from htc_fast.data.reading import read_json
from htc_fast.errors import UserError, brief
from htc_fast.models.structures import UNLABELLED

if TYPE_CHECKING:
    from htc_fast.ops._rle import Runs

STUFF_CLASSES = 183


@dataclass(frozen=True)
class PixelMaps:
    """One PNG per picture whose pixel values are classes, 255 where unlabelled.

    folder   <folder>/<picture's stem>.png
    classes  values must be below
    source   COCO-Stuff: thing id - 1 (0-90), stuff 91-181
    """

    folder: Path
    classes: int = STUFF_CLASSES

    def read(self, picture: Picture, masks: "Runs", labels: np.ndarray) -> np.ndarray:
        name = Path(picture.file_name)
        path = self.folder / name.parent / f"{name.stem}.png"
        if not os.path.isfile(path):
            path = self.folder / f"{name.stem}.png"
        values = _read_png(path, picture)
        if values.ndim != 2:
            raise UserError(f"semantic map {path} is a colour picture: expected one 8-bit class number per pixel.")
        wrong = values[(values >= self.classes) & (values != UNLABELLED)]
        if wrong.size:
            raise UserError(
                f"semantic map {path} holds class {wrong[0]}: expected below {self.classes}, or {UNLABELLED} for "
                "unlabelled; give the number of classes as semantic_classes."
            )
        return values.astype(np.uint8)


class PanopticMaps:
    """COCO panoptic PNGs and their JSON; a class is the rank of its category id.

    path  panoptic_<split>.json, with the PNGs in a folder of the same name beside it or one folder up
    """

    def __init__(self, path: Path):
        content = read_json(path)
        categories, items = (_objects(content, key, path) for key in ("categories", "annotations"))
        sentence = f"{path}: 'categories' must have different ids"
        keys = different([one.get("id") for one in categories], sentence)
        ids = sorted(keys, key=lambda key: (isinstance(key, str), key))
        if not 0 < len(ids) < UNLABELLED:
            raise UserError(f"{path} has {len(ids)} categories: at least 1 and at most 254 can be semantic classes.")
        ranks: dict[int | str | None, int] = {category: rank for rank, category in enumerate(ids)}
        sentence = f"{path}: 'annotations' must have different image ids"
        images = different([one.get("image_id") for one in items], sentence)
        self._segments = {key: _segments(item, ranks, path) for key, item in zip(images, items)}
        self.path, self.classes = path, len(ids)
        places = (path.with_suffix(""), path.parent.parent / path.stem)
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise UserError(f"{path} has no folder of PNGs: expected {places[0]} or {places[1]}.")
        self.folder = Folder(folder)

    def read(self, picture: Picture, masks: "Runs", labels: np.ndarray) -> np.ndarray:
        key = identity(picture.id)
        if key is None or key not in self._segments:
            raise UserError(
                f"{self.path} has no segments for image {brief(picture.file_name)} (id {brief(str(picture.id))})."
            )
        name, ids, classes = self._segments[key]
        path = self.folder.file(name)
        colour = _read_png(path, picture)
        if colour.ndim != 3 or colour.shape[2] < 3:
            raise UserError(f"panoptic map {path} is not RGB: expected id = R + 256 G + 65536 B.")
        colour = colour[..., :3].astype(np.int64)
        pixels = colour[..., 0] + 256 * colour[..., 1] + 65536 * colour[..., 2]
        order = np.argsort(ids)
        if not len(ids):
            return np.full(pixels.shape, UNLABELLED, dtype=np.uint8)
        place = np.searchsorted(ids[order], pixels).clip(max=len(ids) - 1)
        known = ids[order][place] == pixels
        return np.where(known, classes[order][place], UNLABELLED).astype(np.uint8)


@dataclass(frozen=True)
class Derived:
    """Maps made of the instance masks: a pixel's class is its instance's label, the background comes after the last.

    Smaller instances lie on larger ones, crowds are ignored. With more than 253 labels, all instances share class 0.
    Masks are `runs.read`'s.
    """

    labels: int

    @property
    def classes(self) -> int:
        return (self.labels if self.labels < UNLABELLED - 1 else 1) + 1

    def read(self, picture: Picture, masks: "Runs", labels: np.ndarray) -> np.ndarray:
        size = picture.height, picture.width
        crowds = runs.read(to_rles([item.segmentation for item in picture.annotations if item.crowd], *size))
        count = len(crowds.sizes)
        # Crowds first, under everyone; then the largest.
        order = torch.cat([torch.arange(count), count + runs.areas(masks).argsort(descending=True, stable=True)])
        values = torch.full((count + len(labels),), UNLABELLED)
        values[count:] = torch.from_numpy(self.painted_as(labels)).long()
        return runs.painted(runs.joined(crowds, masks), *size, values[order], order, self.classes - 1)

    def painted_as(self, labels: np.ndarray) -> np.ndarray:
        """The classes [G] of instances' pixels."""
        return (labels if self.classes - 1 == self.labels else np.zeros_like(labels)).astype(np.uint8)


Maps = PixelMaps | PanopticMaps | Derived


def find_maps(root: Path | None, annotations: Path, split_names: list[str], classes: int | None) -> Maps | None:
    """Pixel maps or panoptic files where COCO keeps them; None if there are none."""
    base = root or annotations.parent.parent
    for name in split_names:
        folder = base / "stuffthingmaps" / name
        if folder.is_dir():
            return PixelMaps(folder, classes or STUFF_CLASSES)
    for name in split_names:
        path = annotations.parent / f"panoptic_{name}.json"
        if path.is_file():
            return PanopticMaps(path)
    return None


def open_maps(path: Path, classes: int | None) -> Maps:
    """The maps a user names: a folder of pixel maps, a panoptic JSON file, or the folder of its PNGs.

    raises  UserError if nothing is there
    """
    if path.is_file():
        return PanopticMaps(path)
    if not path.is_dir():
        raise UserError(
            f"semantic maps {path} are missing: give a folder of pixel maps, a panoptic JSON file, "
            '"derive" to make them of the instance masks, or "none".'
        )
    beside = (path.parent / f"{path.name}.json", path.parent / "annotations" / f"{path.name}.json")
    panoptic = next((one for one in beside if path.name.startswith("panoptic_") and one.is_file()), None)
    return PanopticMaps(panoptic) if panoptic else PixelMaps(path, classes or STUFF_CLASSES)


def _objects(content: dict, key: str, path: Path) -> list[dict]:
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(
            f"{path} is no COCO panoptic file: expected a list of objects as {key!r}, got {as_json(found)}."
        )
    return found


def _segments(item: dict, ranks: Mapping[int | str | None, int], path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """File name, ids and classes of one picture's segments."""
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path} is no COCO panoptic file: expected the name of a PNG, got {as_json(name)}.")
    check_inside(name, path)
    found = _objects(item, "segments_info", path)
    ids, classes = (
        [whole(one.get("id")) for one in found],
        [ranks.get(identity(one.get("category_id"))) for one in found],
    )
    for one, number, rank in zip(found, ids, classes):
        if number is None or rank is None:
            key = "id" if number is None else "category_id"
            raise UserError(
                f"{path}: a segment of {brief(name)} has the {key!r} {as_json(one.get(key))}: expected "
                f"{'a whole number' if number is None else 'one that is listed'}."
            )
    return name, np.array(ids, dtype=np.int64), np.array(classes, dtype=np.uint8)


def _read_png(path: Path, picture: Picture) -> np.ndarray:
    if not os.path.isfile(path):
        raise UserError(f"semantic map {path} is missing: picture {picture.file_name} needs one.")
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except Exception as error:
        raise UserError(f"semantic map {path} cannot be read ({error}): expected a PNG.") from error
    if values.shape[:2] != (picture.height, picture.width):
        raise UserError(
            f"semantic map {path} is {values.shape[1]} x {values.shape[0]} pixels, "
            f"its picture {picture.width} x {picture.height}: expected the same size."
        )
    return values
