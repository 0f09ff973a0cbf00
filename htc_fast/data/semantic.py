"""Where semantic maps come from: COCO-Stuff pixel maps, COCO panoptic files, or the instance masks themselves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from htc_fast.data.annotations import Picture, read_json
from htc_fast.data.masks import to_bitmaps, to_rle
from htc_fast.errors import UserError

IGNORE = 255
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

    def read(self, picture: Picture, masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
        path = self.folder / Path(picture.file_name).with_suffix(".png")
        if not path.is_file():
            path = self.folder / (Path(picture.file_name).stem + ".png")
        values = _read_png(path, picture)
        if values.ndim != 2:
            raise UserError(f"semantic map {path} is a colour picture: expected one 8-bit class number per pixel.")
        wrong = values[(values >= self.classes) & (values != IGNORE)]
        if wrong.size:
            raise UserError(
                f"semantic map {path} holds class {wrong[0]}: expected below {self.classes}, or 255 for unlabelled; "
                "give the number of classes as semantic_classes."
            )
        return values.astype(np.uint8)


class PanopticMaps:
    """COCO panoptic PNGs and their JSON; a class is the rank of its category id.

    path  panoptic_<split>.json, with the PNGs in a folder of the same name beside it or one folder up
    """

    def __init__(self, path: Path):
        content = read_json(path)
        try:
            ids = sorted(category["id"] for category in content["categories"])
            ranks = {category: rank for rank, category in enumerate(ids)}
            self._segments = {
                item["image_id"]: (
                    item["file_name"],
                    np.array([segment["id"] for segment in item["segments_info"]], dtype=np.int64),
                    np.array([ranks[segment["category_id"]] for segment in item["segments_info"]], dtype=np.uint8),
                )
                for item in content["annotations"]
            }
        except (KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{path} is no COCO panoptic file ({error!r} is missing or wrong).") from None
        self.path, self.classes = path, len(ids)
        places = (path.with_suffix(""), path.parent.parent / path.stem)
        self.folder = next((place for place in places if place.is_dir()), None)
        if self.folder is None:
            raise UserError(f"{path} has no folder of PNGs: expected {places[0]} or {places[1]}.")
        if self.classes >= IGNORE:
            raise UserError(f"{path} has {self.classes} categories: at most 254 can be semantic classes.")

    def read(self, picture: Picture, masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if picture.id not in self._segments:
            raise UserError(f"{self.path} has no segments for image {picture.file_name} (id {picture.id}).")
        name, ids, classes = self._segments[picture.id]
        colour = _read_png(self.folder / name, picture)
        if colour.ndim != 3:
            raise UserError(f"panoptic map {self.folder / name} is not RGB: expected id = R + 256 G + 65536 B.")
        colour = colour[..., :3].astype(np.int64)
        pixels = colour[..., 0] + 256 * colour[..., 1] + 65536 * colour[..., 2]
        order = np.argsort(ids)
        if not len(ids):
            return np.full(pixels.shape, IGNORE, dtype=np.uint8)
        place = np.searchsorted(ids[order], pixels).clip(max=len(ids) - 1)
        known = ids[order][place] == pixels
        return np.where(known, classes[order][place], IGNORE).astype(np.uint8)


@dataclass(frozen=True)
class Derived:
    """Maps made of the instance masks: a pixel's class is its instance's label, the background comes after the last.

    Smaller instances lie on larger ones, crowds are ignored. With more than 253 labels, all instances share class 0.
    """

    labels: int

    @property
    def classes(self) -> int:
        return (self.labels if self.labels < IGNORE - 1 else 1) + 1

    def read(self, picture: Picture, masks: np.ndarray, labels: np.ndarray) -> np.ndarray:
        background = self.classes - 1
        painted = np.full((picture.height, picture.width), background, dtype=np.uint8)
        for i in np.argsort(-masks.sum(axis=(1, 2), dtype=np.int64), kind="stable"):
            painted[masks[i] > 0] = labels[i] if background == self.labels else 0
        crowds = [to_rle(item.segmentation, *painted.shape) for item in picture.annotations if item.crowd]
        if crowds:
            painted[(to_bitmaps(crowds, *painted.shape).any(axis=0)) & (painted == background)] = IGNORE
        return painted


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


def _read_png(path: Path, picture: Picture) -> np.ndarray:
    if not path.is_file():
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
