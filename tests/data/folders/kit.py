"""What the tests of formats share: reading a folder to bitmaps, small pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from htc_fast.data import CocoDataset

EXPORTS = Path(__file__).parent / "exports"


def bitmaps(root, split="train"):
    """Path of each picture of a split without suffix -> [(class, bool [H, W])] in the file's order."""
    data = CocoDataset(root, split, keep_empty=True, held_out=True)
    found = {}
    for sample in (data[place] for place in range(len(data))):
        name = str(Path(sample["name"]).with_suffix(""))
        found[name] = [
            (data.classes[label], mask.numpy() > 0) for label, mask in zip(sample["labels"], sample["masks"])
        ]
    return found


def areas(root, split="train"):
    """Path of each picture without suffix -> [(class, pixels)]."""
    return {name: [(label, int(mask.sum())) for label, mask in found] for name, found in bitmaps(root, split).items()}


def picture(path, size=(48, 64), **options):
    """A grey picture of a height and a width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path, **options)
    return path


def same(found, expected):
    """Whether two lists of (class, bitmap) are of the same classes, in this order, and the same bits."""
    pairs = list(zip(found, expected))
    return len(found) == len(expected) and all(
        a == b and np.array_equal(one, other > 0) for (a, one), (b, other) in pairs
    )
