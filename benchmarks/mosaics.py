"""Mosaics of the sample's held-out pictures: one larger than memory likes, and a data set of some."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from benchmarks.target_memory import tiny_model
from htc_fast import ops
from htc_fast.data import CocoDataset, make_sample_dataset
from htc_fast.data.masks import to_rles
from htc_fast.data.png import SIGNATURE
from htc_fast.models.weights.save import weights_bytes

CUT = 256  # side of a piece of the large picture, and of a TIFF's tile: no picture of the sample is smaller
CELL, ACROSS = 320, 4  # no picture of the sample is larger; pictures along a mosaic's side


def held_out() -> CocoDataset:
    return CocoDataset(make_sample_dataset(), "val", semantic="none", keep_empty=True)


def write_large(paths: list[Path], side: int) -> None:
    """The same picture of side x side as .png or .tif, in memory for some hundred rows."""
    for path in paths:
        (write_png if path.suffix == ".png" else write_tiff)(path, side)


def rows(side: int) -> Iterator[np.ndarray]:
    """uint8 [CUT, a multiple of CUT, 3], from top to bottom: as much as covers the picture."""
    dataset, random, count = held_out(), np.random.default_rng(0), -(-side // CUT)
    pieces = [dataset.image(index)[:CUT, :CUT] for index in range(len(dataset))]
    for _ in range(count):
        yield np.concatenate([pieces[one] for one in random.integers(0, len(pieces), count)], axis=1)


def write_png(path: Path, side: int) -> None:
    """With the filter that subtracts the pixel on the left, as Pillow writes only what it holds."""
    packer = zlib.compressobj(1)
    with path.open("wb") as file:
        file.write(SIGNATURE)
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        for number, whole in enumerate(rows(side)):
            band = whole[: side - number * CUT, :side]
            lines = np.ones((len(band), 1 + 3 * side), np.uint8)  # 1 is that filter
            lines[:, 1:] = np.diff(band, axis=1, prepend=np.uint8(0)).reshape(len(band), -1)
            _chunk(file, b"IDAT", packer.compress(lines.data))
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def write_tiff(path: Path, side: int) -> None:
    """In tiles of CUT pixels, deflated."""
    import tifffile

    tiles = (band[:, left : left + CUT] for band in rows(side) for left in range(0, band.shape[1], CUT))
    packed: dict[str, Any] = {
        "tile": (CUT, CUT),
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "photometric": "rgb",
    }
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, bigtiff=True, maxworkers=1, **packed)


def make_mosaics(root: Path, pictures: int) -> None:
    """A COCO data set `val` of held-out pictures, ACROSS x ACROSS in each."""
    dataset, side = held_out(), CELL * ACROSS
    for folder in ("annotations", "val2017"):
        (root / folder).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for first in range(0, pictures, ACROSS**2):
        canvas, number = np.zeros((side, side, 3), np.uint8), len(images) + 1
        for place in range(min(ACROSS**2, pictures - first)):
            y, x = place // ACROSS * CELL, place % ACROSS * CELL
            pixels = dataset.image(first + place)
            canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
            annotations += [{"image_id": number, **one} for one in _moved(dataset, first + place, x, y, side)]
        Image.fromarray(canvas).save(root / "val2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": side, "height": side})
    categories = [{"id": one, "name": name} for one, name in zip(dataset.category_ids, dataset.classes)]
    numbered = [{"id": number + 1, **one} for number, one in enumerate(annotations)]
    content = {"images": images, "annotations": numbered, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def toy_weights(path: Path) -> Path:
    """A detector of the sample's classes that was never trained."""
    path.write_bytes(weights_bytes(tiny_model(CocoDataset(make_sample_dataset(), "val", keep_empty=True))))
    return path


def _moved(dataset: CocoDataset, index: int, x: int, y: int, side: int) -> Iterator[dict]:
    """A picture's annotations where it lies in a mosaic."""
    picture = dataset.picture(index)
    for item in picture.annotations:
        rle = ops.shift(to_rles([item.segmentation], picture.height, picture.width), x, y, (side, side))[0]
        x1, y1, x2, y2 = item.box
        yield {
            "category_id": dataset.category_ids[item.label],
            "iscrowd": int(item.crowd),
            "bbox": [x1 + x, y1 + y, x2 - x1, y2 - y1],
            "area": float(ops.rle_area([rle])[0]),
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        }


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
