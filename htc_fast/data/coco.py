"""Any data set in COCO format, by its root folder or by explicit paths."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from htc_fast.data import runs
from htc_fast.data import semantic as semantic_maps
from htc_fast.data.annotations import CROWD, Annotations, Picture, read_annotations
from htc_fast.data.classes import relabelled
from htc_fast.data.instances import Instances
from htc_fast.data.masks import to_rles
from htc_fast.data.names import Folder
from htc_fast.data.pictures import load_image
from htc_fast.errors import UserError, brief, few, say_once

SMALLEST_SIDE = 32


class CocoDataset(Dataset):
    """Pictures and their instances, as dicts that torchvision's transforms v2 understand.

    root              folder with annotations/ and pictures; None where both paths below are given
    split             "train", "val", ...: finds annotations/instances_<split>2017.json and its relatives
    annotations       instances file, instead of searching
    images            folder that file names are relative to, instead of searching
    semantic          None: pixel maps or panoptic files if there, else derived from the masks; "derive"; "none";
                      or the path of a folder of pixel maps or of a panoptic JSON
    semantic_classes  classes in pixel maps; None: the file's info.semantic_classes, else 183
    classes           names to use, in this order; None: all categories by rank of their id
    keep_empty        keep pictures without instances or below 32 pixels; None: unless split starts with "train"
    transform         sample dict -> sample dict
    layered           masks as index maps that many instances share, which take the memory of a few; see __getitem__
    source            mmdetection's COCO data set: what it drops, and in which order
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        semantic: str | Path | None = None,
        semantic_classes: int | None = None,
        classes: Sequence[str] | None = None,
        keep_empty: bool | None = None,
        transform: Callable[[dict], dict] | None = None,
        layered: bool = False,
    ):
        root = Path(root) if root is not None else None
        if annotations is not None:
            self.path = Path(annotations)
        elif root is not None:
            self.path = find_annotations(root, split)
        else:
            raise UserError("a data set needs its root folder (--data) or its annotation file (--annotations).")
        self.annotations: Annotations = read_annotations(self.path, classes)
        self.pictures, self.classes = self.annotations.pictures, self.annotations.classes
        self.category_ids = self.annotations.category_ids
        self.images = find_images(self.path, root, split, images, self.annotations.file_names[0])
        self.keep = self._kept(not split.startswith("train") if keep_empty is None else keep_empty)
        # Files that are called otherwise than the annotations say; the names stay the annotations'.
        self._files = _find_files(self.path, self.images, [self.annotations.file_names[i] for i in self.keep])
        self.maps = self._maps(root, split, semantic, semantic_classes)
        self.transform, self.layered = transform, layered

    def relabelled(self, classes: Sequence[str]) -> "CocoDataset":
        """The same pictures with labels that count in another list of classes, such as a model's; see `relabelled`."""
        other = copy.copy(self)
        other.annotations = relabelled(self.annotations, classes, self.path.name)
        other.pictures, other.classes = other.annotations.pictures, other.annotations.classes
        other.category_ids = other.annotations.category_ids
        if isinstance(self.maps, semantic_maps.Derived):
            other.maps = semantic_maps.Derived(len(other.classes))
        return other

    @property
    def semantic_classes(self) -> int:
        """Classes of the semantic maps; 0 without maps."""
        return self.maps.classes if self.maps is not None else 0

    @property
    def groups(self) -> list[int]:
        """Orientation by sample: 0 upright (width < height), 1 otherwise; batches do not mix them."""
        sizes = self.annotations.sizes
        return [int(sizes[i][1] >= sizes[i][0]) for i in self.keep]

    def __len__(self) -> int:
        return len(self.keep)

    def picture(self, index: int) -> Picture:
        """The picture of a sample, with all its annotations."""
        return self.pictures[self.keep[index]]

    def image(self, index: int) -> np.ndarray:
        """Its pixels, uint8 [H, W, 3] RGB."""
        return self._load(self.picture(index))

    def __getitem__(self, index: int) -> dict:
        """One sample.

        image     uint8 [3, H, W] RGB
        boxes     float32 [G, 4]; labels int64 [G]; masks uint8 [G, H, W]
        semantic  uint8 [H, W], 255 = ignore; absent without maps
        name      file name
        layered   masks int16 [L, H, W] instead, a pixel's instance or 0, and numbers int64 [G]: who is which instance
        """
        picture = self.picture(index)
        size = (picture.height, picture.width)
        pixels = self._load(picture)
        used = [item for item in picture.annotations if item.trainable]
        rles = to_rles([item.segmentation for item in used], *size)
        found = runs.read(rles)
        masks = runs.layers(found, *size) if self.layered else runs.bitmaps(rles, *size)
        labels = np.array([item.label for item in used], dtype=np.int64)
        boxes = torch.tensor([item.box for item in used], dtype=torch.float32).reshape(-1, 4)
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(labels),
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
            "name": picture.file_name,
        }
        if self.layered:
            sample["numbers"] = torch.arange(1, len(used) + 1)
        if self.maps is not None:
            named = replace(picture, file_name=self._file(picture))
            sample["semantic"] = tv_tensors.Mask(torch.from_numpy(self.maps.read(named, found, labels)))
        return self.transform(sample) if self.transform else sample

    def truth(self, index: int) -> Instances:
        """The instances to be found in a picture, to draw beside predictions."""
        picture = self.picture(index)
        used = [item for item in picture.annotations if item.trainable]
        return Instances(
            boxes=torch.tensor([item.box for item in used], dtype=torch.float32).reshape(-1, 4),
            scores=torch.ones(len(used)),
            labels=torch.tensor([item.label for item in used], dtype=torch.int64),
            rle=to_rles([item.segmentation for item in used], picture.height, picture.width),
            size=(picture.height, picture.width),
            class_names=self.classes,
        )

    def _file(self, picture: Picture) -> str:
        return self._files.get(picture.file_name, picture.file_name)

    def _load(self, picture: Picture) -> np.ndarray:
        return load_image(self.images / self._file(picture), (picture.height, picture.width))

    def _kept(self, keep_empty: bool) -> list[int]:
        """Indices of the pictures to use."""
        everything = range(len(self.pictures))
        if keep_empty:
            return list(everything)
        counts, sizes = self.annotations.trainable, self.annotations.sizes
        large = [i for i in everything if min(sizes[i]) >= SMALLEST_SIDE]
        kept = [i for i in large if counts[i]]
        if not kept:
            raise nothing_to_train_on(self)
        empty = [i for i in large if not counts[i]]
        crowded = sum(any(item.crowd for item in self.pictures[i].annotations) for i in empty)
        left_out = [(len(empty) - crowded, "without instances"), (crowded, "with crowds alone")]
        left_out += [(len(everything) - len(large), f"of less than {SMALLEST_SIDE} pixels a side")]
        if len(kept) < len(everything):
            said = " and ".join(f"{count} picture{'s' * (count > 1)} {what}" for count, what in left_out if count)
            say_once(f"{self.path.name}: {said} left out (--keep-empty, in Python keep_empty=True, trains on them).")
        return kept

    def _maps(
        self, root: Path | None, split: str, semantic: str | Path | None, classes: int | None
    ) -> semantic_maps.Maps | None:
        # A command line gives a Path, whatever was meant.
        wanted = None if semantic is None else str(semantic)
        if wanted == "none":
            return None
        classes = classes or self.annotations.semantic_classes
        found = None
        if wanted is None:
            found = semantic_maps.find_maps(root, self.path, split_names(split, self.path), classes)
        elif wanted != "derive":
            found = semantic_maps.open_maps(Path(wanted), classes)
        return found or semantic_maps.Derived(len(self.classes))


def say_maps(dataset: CocoDataset) -> None:
    """Say once that semantic maps are derived, where a user may expect real ones."""
    if isinstance(dataset.maps, semantic_maps.Derived):
        say_once(
            f"{dataset.path.name}: no semantic maps found (stuffthingmaps/ or panoptic_*.json), "
            "so they are derived from the instance masks."
        )


def split_names(split: str, annotations: Path | None = None) -> list[str]:
    """What files and folders of a split may be called, most likely first."""
    names = [f"{split}2017", split]
    if split in ("val", "valid"):
        names += ["valid", "val", "validation"]
    if annotations is not None:
        names.insert(0, annotations.stem.removeprefix("instances_"))
    return list(dict.fromkeys(names))


def find_annotations(root: Path, split: str) -> Path:
    """The instances file of a split below a root folder.

    raises  UserError naming what was looked for and what is there
    """
    if not root.is_dir():
        raise UserError(f"data set folder {root} is missing: expected a folder with annotations/ and pictures.")
    tried = []
    for name in split_names(split):
        tried += [
            Path("annotations") / f"instances_{name}.json",
            Path("annotations") / f"{name}.json",
            Path(f"{name}.json"),
            Path(name) / "_annotations.coco.json",
        ]
    for path in tried:
        if (root / path).is_file():
            return root / path
    there = sorted(str(path.relative_to(root)) for path in [*root.glob("*.json"), *root.glob("annotations/*.json")])
    raise UserError(
        f"{root} has no annotation file for split {split!r}: looked for {tried[0]}, {tried[1]} and others, "
        f"found {few(there) or 'no JSON file'}; name one with --annotations "
        "(in training --train-json, --val-json)."
    )


def find_images(path: Path, root: Path | None, split: str, images: str | Path | None, first: str) -> Path:
    """The folder that file names are relative to: the first likely one that holds the first picture.

    raises  UserError if none does
    """
    if images is not None:
        if not Path(images).is_dir():
            raise UserError(f"image folder {images} is missing: check the path.")
        return Path(images)
    bases = dict.fromkeys([*([root] if root else []), path.parent.parent, path.parent])
    names = split_names(split, path)
    folders = []
    for base in bases:
        folders += [base / part / name for part in ("", "images") for name in names] + [base / "images", base]
    for folder in folders:
        # A name too long for a file is no error there.
        if os.path.isfile(folder / first):
            return folder
    for folder in folders:
        if folder.is_dir() and not Folder(folder).find([first])[1]:
            return folder
    base = next(iter(bases))
    raise UserError(
        f"picture {brief(first)} of {path} is missing: looked in {base / names[0]}, {base / 'images'}, {base} and "
        "others; name the folder with --images (in training --train-images, --val-images)."
    )


def _find_files(path: Path, folder: Path, names: list[str]) -> dict[str, str]:
    """The files of pictures that are called otherwise than their names say; see `Folder`.

    raises  UserError if a picture is missing: one listing per folder tells before hours of training do
    """
    other, missing = Folder(folder).find(names)
    if missing:
        told = [
            brief(name) + (f", which may mean {' or '.join(map(brief, found[:2]))}" if found else "")
            for name, found in missing.items()
        ]
        raise UserError(
            f"{len(missing)} of {len(names)} pictures are missing in {folder} ({few(told, most=3)}): "
            f"fetch them or take them out of {path.name}."
        )
    return other


def nothing_to_train_on(dataset: CocoDataset) -> UserError:
    """The error of a data set without an instance: it says how many annotations are not used, and why."""
    found, why = dataset.annotations, ""
    if not found.labelled:
        why = "; the file has no annotations"
    elif found.untrained:
        why = f"; not used are {', '.join(f'{count} {reason}' for reason, count in found.untrained.items())}"
    if CROWD in found.untrained:
        why += ", which is for regions of many objects and 0 for a single one"
    return UserError(
        f"{dataset.path} leaves nothing to train on: no picture of at least {SMALLEST_SIDE} pixels a side has "
        f"an instance with a mask, an area and a known category{why}."
    )
