"""What was found in one picture, in its own pixels."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from htc_fast.data import runs
from htc_fast.data.classes import numbered
from htc_fast.data.exports.geojson import to_geojson
from htc_fast.data.exports.labelme import to_labelme
from htc_fast.data.exports.table import to_rows
from htc_fast.data.exports.yolo import to_yolo
from htc_fast.data.masks import to_bitmaps
from htc_fast.data.pictures import Source, load_image
from htc_fast.errors import UserError

PREVIEW = 1280  # pixels of the longer side that a notebook shows at most
GROUND = (96, 96, 96)  # below masks whose picture is not known


@dataclass
class Instances:
    """The instances of one picture, best first.

    boxes        [n, 4] float, x1, y1, x2, y2 in original pixels
    scores       [n] float, 0 to 1
    labels       [n] int64, index into class_names
    rle          n COCO RLE dicts (compressed)
    size         (height, width) of the picture
    class_names  by label
    mask_scores  [n] float, how sure the masks are: the mean of the 28 x 28 probabilities in the box that are at least
                 0.5, 0 where none is; None: not known
    source       the picture as `predict` was given it, for `plot` and `crop`: a path, or the array itself, which stays
                 in memory as long as this is set; None: not known

    Given on: `to_coco`, `to_labelme`, `to_yolo`, `to_geojson`, `to_rows` for tables, and supervision's Detections by
    `htc_fast.integrations.supervision.to_detections`. Looked at: `plot`, `crop`; a notebook shows `plot` by itself.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rle: list[dict]
    size: tuple[int, int]
    class_names: Sequence[str] = field(default=(), repr=False)
    mask_scores: Tensor | None = None
    source: Any = field(default=None, repr=False, compare=False)

    to_labelme = to_labelme
    to_yolo = to_yolo
    to_geojson = to_geojson
    to_rows = to_rows

    def __len__(self) -> int:
        return len(self.rle)

    def __getitem__(self, keep: slice | Tensor | np.ndarray | Sequence[int] | int) -> "Instances":
        """Some of them: a slice, a bool mask [n] or indices.

        raises  IndexError if one is out of range, or neither bool nor a whole number
        """
        if not isinstance(keep, slice):
            keep = keep.cpu().numpy() if isinstance(keep, Tensor) else np.asarray(keep)
            keep = keep.astype(np.int64) if not keep.size else keep
            mask = keep.dtype == bool and keep.shape == (len(self),)
            # Of bytes, PyTorch makes a mask and NumPy indices.
            if not mask and (keep.dtype.kind not in "iu" or keep.dtype.itemsize == 1 or keep.ndim > 1):
                got = f"{keep.dtype} {list(keep.shape)}"
                raise IndexError(f"expected a slice, a bool mask [{len(self)}] or whole numbers, got {got}.")
        index = torch.from_numpy(np.arange(len(self))[keep].reshape(-1).copy())
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            rle=[self.rle[i] for i in index.tolist()],
            mask_scores=None if self.mask_scores is None else self.mask_scores[index],
        )

    def resized(self, size: tuple[int, int]) -> "Instances":
        """The same in the picture of another (height, width); masks by the pixels under their centres."""
        factor = torch.tensor([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        return replace(self, boxes=self.boxes * factor, rle=runs.resized(self.rle, *size), size=size)

    @property
    def masks(self) -> Tensor:
        """[n, H, W] bool, decoded at every access."""
        return torch.from_numpy(to_bitmaps(self.rle, *self.size).view(bool))

    @property
    def areas(self) -> Tensor:
        """[n] int64, pixels of each mask."""
        return runs.areas(runs.read(self.rle))

    def mask(self, index: int) -> np.ndarray:
        """One mask, bool [H, W]."""
        return to_bitmaps([self.rle[index]], *self.rle[index]["size"])[0].view(bool)

    def name(self, index: int) -> str:
        """The class name of one instance."""
        label = int(self.labels[index])
        return self.class_names[label] if 0 <= label < len(self.class_names) else numbered(label)

    def plot(self, image: Source | None = None, **options: Any) -> Image.Image:
        """Draw them over their picture.

        image    path, PIL image or array [H, W, 3]; None: the one that they were found in
        options  of `htc_fast.data.draw.draw`: labels, scores, boxes, opacity, zoom, font
        returns  an RGB picture
        raises   UserError if the picture is not known or cannot be read, ValueError if it is of another size
        """
        from htc_fast.data.draw import draw  # brings torchvision's drawing, which training and commands may not need

        return draw(self._picture(image), self, **options)

    def crop(self, image: Source | None = None, *, background: Any = None) -> list[Image.Image]:
        """The picture's pixels inside each box; of one instance, `found[0].crop()[0]`.

        image       path, PIL image or array [H, W, 3]; None: the one that they were found in
        background  a colour for pixels beside the mask, such as "white" or (0, 0, 0); None: they stay as they are
        returns     an RGB picture per instance: all pixels that its box touches, at least one
        raises      UserError if the picture is not known or cannot be read, ValueError if it is of another size, or
                    for no colour
        """
        pixels = load_image(self._picture(image))
        if pixels.shape[:2] != tuple(self.size):
            raise ValueError(f"the picture is {pixels.shape[:2]}, the instances were found in {tuple(self.size)}.")
        limit = torch.tensor([self.size[1], self.size[0]] * 2)
        first = self.boxes[:, :2].floor().long().clamp(min=0).minimum(limit[:2] - 1)
        last = self.boxes[:, 2:].ceil().long().minimum(limit[2:]).maximum(first + 1)
        found = []
        for rle, (x1, y1, x2, y2) in zip(self.rle, torch.cat([first, last], dim=1).tolist(), strict=True):
            cut = Image.fromarray(pixels[y1:y2, x1:x2])
            if background is not None:
                mask = Image.fromarray(runs.window(rle, (x1, y1, x2, y2)))
                cut = Image.composite(cut, Image.new("RGB", cut.size, background), mask)
            found.append(cut)
        return found

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the picture with the instances, or these alone where it is not known any more."""
        small, pixels = self._shrunk(PREVIEW), None
        with contextlib.suppress(UserError):  # moved or deleted since
            pixels = None if self.source is None else load_image(self.source)
        sides = small.size[1], small.size[0]
        if pixels is None or pixels.shape[:2] != tuple(self.size):
            ground = Image.new("RGB", sides, GROUND)
        else:
            ground = Image.fromarray(pixels).resize(sides)
        buffer = io.BytesIO()
        small.plot(ground).save(buffer, "PNG")
        return buffer.getvalue()

    def _shrunk(self, side: int) -> "Instances":
        """In a picture whose longer side is `side` at most."""
        factor = side / max(self.size)
        if factor >= 1:
            return self
        height, width = (max(1, round(own * factor)) for own in self.size)
        return self.resized((height, width))

    def _picture(self, image: Source | None) -> Source:
        source = self.source if image is None else image
        if source is None:
            raise UserError("the picture of these instances is not known: give it, such as plot('street.jpg').")
        return source

    def to_coco(self, image_id: int | str, category_ids: Sequence[int | str | None] | None = None) -> list[dict]:
        """COCO result dicts, ready for JSON.

        category_ids  by label, instances of a class without one (None) are left out; None: label + 1, as ids begin at 1
        raises        UserError if it has too few
        """
        ids = () if category_ids is None else category_ids
        if len(ids) and len(self) and int(self.labels.max()) >= len(ids):
            raise UserError(f"label {int(self.labels.max())} has no id: got {len(ids)} category_ids.")
        results = []
        for box, score, label, rle in zip(
            self.boxes.double().tolist(), self.scores.tolist(), self.labels.tolist(), self.rle, strict=True
        ):
            category = ids[label] if len(ids) else label + 1
            if category is None:
                continue
            x1, y1, x2, y2 = box
            counts = rle["counts"]
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(score, 5),
                    "segmentation": {
                        "size": list(rle["size"]),
                        "counts": counts.decode() if isinstance(counts, bytes) else counts,
                    },
                }
            )
        return results


def as_bytes(rle: dict) -> dict:
    """An RLE with its counts as pycocotools takes them."""
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.encode() if isinstance(counts, str) else counts}
