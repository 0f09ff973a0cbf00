"""Any data set in COCO format or in one that becomes it, by its root folder or by explicit paths."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from htc_fast.data import runs
from htc_fast.data import semantic as semantic_maps
from htc_fast.data.annotations import CROWD, Annotations, Picture, read_annotations
from htc_fast.data.classes import relabelled
from htc_fast.data.crops import drawn
from htc_fast.data.folders.find import find_split
from htc_fast.data.folders.places import find_images, split_names
from htc_fast.data.instances import Instances
from htc_fast.data.masks import to_rles
from htc_fast.data.names import find_files
from htc_fast.data.pictures import load_image
from htc_fast.data.windows import Windows, open_windows
from htc_fast.errors import MOST, UserError, say_once

SMALLEST_SIDE = 32


class CocoDataset(Dataset):
    """Pictures and their instances, as dicts that torchvision's transforms v2 understand.

    root              folder with annotations/ and pictures, or of another format, or its data.yaml or one JSON file;
                      None where both paths below are given
    split             "train", "val", ...: finds annotations/instances_<split>2017.json and its relatives; "all" where
                      a folder has no splits
    annotations       instances file, instead of searching
    images            folder that file names are relative to, instead of searching
    semantic          None: pixel maps or panoptic files if there, else derived from the masks; "derive"; "none";
                      or the path of a folder of pixel maps or of a panoptic JSON
    semantic_classes  classes in pixel maps; None: the file's info.semantic_classes, else 183
    classes           names to use, in this order; None: all categories by rank of their id
    keep_empty        keep pictures without instances or below 32 pixels; None: unless split starts with "train"
    transform         sample dict -> sample dict
    held_out          whether a "val" that is missing is taken out of "train"; see `find_split`
    layered           masks as index maps that many instances share, which take the memory of a few; see __getitem__
    tile              large pictures are looked at in parts of this side: a sample is a random window (see `crops`),
                      and an evaluation takes all tiles
    complete          whether a picture that is missing is an error; False: it is when it is read
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
        held_out: bool | None = None,
        tile: int | None = None,
        complete: bool = True,
    ):
        root = Path(root) if root is not None else None
        if annotations is not None:
            self.path = Path(annotations)
        elif root is not None:
            self.path, found = find_split(root, split, held_out)
            images = found if images is None else images
        else:
            raise UserError("a data set needs its root folder (--data) or its annotation file (--annotations).")
        self.annotations: Annotations = read_annotations(self.path, classes)
        self.pictures, self.classes = self.annotations.pictures, self.annotations.classes
        self.category_ids = self.annotations.category_ids
        names = self.annotations.file_names
        self.images = find_images(self.path, root, split, images, names[: 1 if complete else 100])
        self.keep = self._kept(not split.startswith("train") if keep_empty is None else keep_empty)
        # Files that are called otherwise than the annotations say; the names stay the annotations'.
        self._files = find_files(self.path, self.images, [names[i] for i in self.keep], complete)
        self.maps = self._maps(root, split, semantic, semantic_classes)
        self.transform, self.layered, self.tile = transform, layered, tile

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
        sizes, most = self.annotations.sizes, self.tile or MOST
        return [int(min(sizes[i][1], most) >= min(sizes[i][0], most)) for i in self.keep]

    def __len__(self) -> int:
        return len(self.keep)

    def picture(self, index: int) -> Picture:
        """The picture of a sample, with all its annotations."""
        return self.pictures[self.keep[index]]

    def image(self, index: int) -> np.ndarray:
        """Its pixels, uint8 [H, W, 3] RGB."""
        return self._load(self.picture(index))

    def windows(self, index: int) -> Windows:
        """The same, to be read in bands of rows."""
        return self._load(self.picture(index), open_windows)

    def __getitem__(self, index: int) -> dict:
        """One sample.

        image     uint8 [3, H, W] RGB
        boxes     float32 [G, 4]; labels int64 [G]; masks uint8 [G, H, W]
        semantic  uint8 [H, W], 255 = ignore; absent without maps
        name      file name
        layered   masks int16 [L, H, W] instead, a pixel's instance or 0, and numbers int64 [G]: who is which instance
        """
        whole = picture = self.picture(index)
        if self.tile is None:
            pixels = self._load(picture)
        else:
            picture, (x1, y1, x2, y2) = drawn(whole, self.tile)
            with self.windows(index) as windows:
                pixels = windows.read(y1, y2, x1, x2).copy()
        size = (picture.height, picture.width)
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
            derived = isinstance(self.maps, semantic_maps.Derived)
            named = replace(picture if derived else whole, file_name=self._file(picture))
            semantic = torch.from_numpy(self.maps.read(named, found, labels))
            # A map's file is read whole.
            semantic = semantic if derived or self.tile is None else semantic[y1:y2, x1:x2].clone()
            sample["semantic"] = tv_tensors.Mask(semantic)
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

    def path_of(self, picture: Picture) -> Path:
        """Its file, which may be called a little otherwise than the annotations say."""
        return self.images / self._file(picture)

    def _file(self, picture: Picture) -> str:
        return self._files.get(picture.file_name, picture.file_name)

    def _load(self, picture: Picture, load: Callable = load_image) -> Any:
        return load(self.path_of(picture), (picture.height, picture.width))

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
