"""What is in a data set, as numbers: objects by class and size, pictures, and what is wrong with either."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from htc_fast import ops
from htc_fast.data.annotations import Picture
from htc_fast.data.coco import CocoDataset
from htc_fast.data.decode import ORIENTATION, opened
from htc_fast.data.masks import to_rles
from htc_fast.data.pictures import resized_size
from htc_fast.errors import UserError, brief

SEEN = (800, 1333)  # what a network sees of a picture, unless told otherwise
COCO_SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
TINY = 4  # pixels of an object, in all
READERS = 8
BEGINNING = 2**14  # bytes that tell most files apart
File = tuple[str, Path]  # "split: name" and where it is


@dataclass
class Split:
    """One split in numbers.

    name      of the split;  file: its annotation file
    pictures  sizes [P, 2] int64 height, width;  objects: [P] int64, those that are trained on
    labels    [K] int64 of the objects;  owners: [K] int64, their pictures' places
    areas     [K] float64, pixels;  seen: [K] float64, the root of an object's area as a network sees it at SEEN
    crowds    annotations that are not trained on
    doubled   objects of the same class and box as another in their picture
    """

    name: str
    file: str
    classes: Sequence[str]
    pictures: np.ndarray
    objects: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    areas: np.ndarray
    seen: np.ndarray
    crowds: int
    doubled: int

    def by_class(self) -> list[dict[str, Any]]:
        """Of each class: objects, pictures that have any, and the median root of the area in pixels, None without."""
        found = []
        order = np.argsort(self.labels, kind="stable")
        ends = np.searchsorted(self.labels[order], np.arange(len(self.classes) + 1))
        for name, first, last in zip(self.classes, ends, ends[1:]):
            mine = order[first:last]
            side = float(np.sqrt(np.median(self.areas[mine]))) if len(mine) else None
            counts = {"objects": len(mine), "pictures": len(np.unique(self.owners[mine]))}
            found.append({"name": name, **counts, "median_side": side})
        return found

    def summary(self) -> dict[str, Any]:
        """The split as JSON holds it."""
        sizes = Counter(map(tuple, self.pictures.tolist()))
        shares = {
            name: float(((self.areas >= low) & (self.areas < high)).mean()) if len(self.areas) else None
            for name, (low, high) in COCO_SIZES.items()
        }
        return {
            "annotations": self.file,
            "pictures": len(self.pictures),
            "objects": len(self.labels),
            "not_trained_on": self.crowds,
            "annotated_twice": self.doubled,
            "pictures_without_objects": int((self.objects == 0).sum()),
            "most_objects_in_a_picture": int(self.objects.max(initial=0)),
            "shares": shares,
            "median_side_seen": float(np.median(self.seen)) if len(self.seen) else None,
            "sizes": [{"height": h, "width": w, "pictures": count} for (h, w), count in sizes.most_common(10)],
            "classes": self.by_class(),
        }


def measure(dataset: CocoDataset, name: str, seen: Callable[[int], object] = lambda count: None) -> Split:
    """Count and measure a split's objects; areas are the file's where it has them, else their masks'.

    seen  is called with the number of pictures done, one by one
    """
    labels: list[int] = []
    owners: list[int] = []
    areas: list[float] = []
    sizes, counts, crowds, doubled = [], [], 0, 0
    for place in range(len(dataset)):
        picture = dataset.picture(place)
        used = [item for item in picture.annotations if item.trainable]
        labels += [item.label for item in used]
        owners += [place] * len(used)
        areas += _areas(picture)
        sizes.append((picture.height, picture.width))
        counts.append(len(used))
        crowds += len(picture.annotations) - len(used)
        doubled += len(used) - len({(item.label, item.box) for item in used})
        seen(1)
    pictures, where = np.array(sizes, dtype=np.int64).reshape(-1, 2), np.array(owners, dtype=np.int64)
    scales = np.array([resized_size(h, w, *SEEN)[0] / h for h, w in sizes])
    roots = np.sqrt(np.array(areas, dtype=np.float64))
    return Split(
        name=name,
        file=dataset.path.name,
        classes=dataset.classes,
        pictures=pictures,
        objects=np.array(counts, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        owners=where,
        areas=roots**2,
        seen=roots * scales[where] if len(where) else roots,
        crowds=crowds,
        doubled=doubled,
    )


def _areas(picture: Picture) -> list[float]:
    used = [item for item in picture.annotations if item.trainable]
    lacking = [item.segmentation for item in used if item.area is None]
    pixels = iter(ops.rle_area(to_rles(lacking, picture.height, picture.width)).tolist() if lacking else [])
    return [float(next(pixels)) if item.area is None else item.area for item in used]


@dataclass
class Files:
    """What the picture files themselves say.

    unreadable  [(name, why)];  resized: [(name, (height, width) of the file, of the annotations)]
    turned      names of pictures that EXIF turns;  same: groups of names "split: name" with the same bytes
    """

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    resized: list[tuple[str, tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    same: list[list[str]] = field(default_factory=list)


def look_at_files(splits: Iterable[tuple[str, CocoDataset]], seen: Callable[[int], object]) -> Files:
    """Open every picture's header, and compare the bytes of those of one length.

    splits  (name, data set);  seen: is called with the number of pictures done, one by one
    """
    found, lengths = Files(), defaultdict[int, list[File]](list)
    with ThreadPoolExecutor(READERS) as pool:
        for split, dataset in splits:
            files = _listed(dataset)
            # A pool takes all that it is given at once.
            while some := list(islice(files, 1024)):
                told_of = pool.map(lambda one: _header(*one[1:]), some)
                for (name, listed, path), (length, told) in zip(some, told_of):
                    full = f"{split}: {name}"
                    if isinstance(told, str):
                        found.unreadable.append((full, told))
                    else:
                        _compare(found, full, listed, *told)
                    if length:
                        lengths[length].append((full, path))
                    seen(1)
        alike = _divided(lengths.values(), lambda paths: pool.map(_beginning, paths))
        same = _divided(alike, lambda paths: pool.map(_digest, paths))
    found.same = [[name for name, _ in some] for some in same]
    return found


def _divided(groups: Iterable[Sequence[File]], key: Callable[[list[Path]], Iterable[bytes]]) -> list[list[File]]:
    """Groups of files that are alike, divided by what is read of them; what is alone goes."""
    together = [(number, file) for number, some in enumerate(groups) if len(some) > 1 for file in some]
    found = defaultdict[tuple[int, bytes], list[File]](list)
    for (number, file), read in zip(together, key([path for _, (_, path) in together])):
        if read:
            found[number, read].append(file)
    return [some for some in found.values() if len(some) > 1]


def _listed(dataset: CocoDataset) -> Iterator[tuple[str, tuple[int, int], Path]]:
    for place in range(len(dataset)):
        picture = dataset.picture(place)
        yield picture.file_name, (picture.height, picture.width), dataset.path_of(picture)


def _header(listed: tuple[int, int], path: Path) -> tuple[int, str | tuple[tuple[int, int], bool]]:
    """Bytes of a file; its (height, width) and whether EXIF turns it, or why it cannot be opened."""
    try:
        with opened(path, "it") as image:
            size = image.height, image.width
            # A PNG may have its EXIF behind all pixels, and decodes them to come there.
            found = image.getexif() if size == listed[::-1] != listed else Image.Image.getexif(image)
            return os.path.getsize(path), (size, found.get(ORIENTATION, 1) in (5, 6, 7, 8))
    except UserError as error:
        return 0, brief(str(error).rstrip("."))
    except OSError as error:
        return 0, error.strerror or type(error).__name__


def _compare(found: Files, name: str, listed: tuple[int, int], size: tuple[int, int], turned: bool) -> None:
    if turned:
        found.turned.append(name)
    if listed != size and not (turned and listed == size[::-1]):
        found.resized.append((name, size, listed))


def _beginning(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(BEGINNING)).digest()
    except OSError:
        return b""


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    except OSError:
        return b""
    return digest.digest()
