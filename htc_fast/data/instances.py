"""What was found in one picture, in its own pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from htc_fast.data import runs
from htc_fast.data.classes import numbered
from htc_fast.data.masks import to_bitmaps
from htc_fast.errors import UserError


@dataclass
class Instances:
    """The instances of one picture, best first.

    boxes        [n, 4] float, x1, y1, x2, y2 in original pixels
    scores       [n] float, 0 to 1
    labels       [n] int64, index into class_names
    rle          n COCO RLE dicts (compressed)
    size         (height, width) of the picture
    class_names  by label
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rle: list[dict]
    size: tuple[int, int]
    class_names: Sequence[str] = field(default=(), repr=False)

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
        return Instances(
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            [self.rle[i] for i in index.tolist()],
            self.size,
            self.class_names,
        )

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
