"""What data asks of the operators on masks. They are loaded with the first mask: a list of files needs none of them.

Masks go between these functions as `ops._rle.Runs`: all runs of ones of a picture's masks in three tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from htc_fast.ops._layers import Measures
    from htc_fast.ops._rle import Runs


def read(rles: Sequence[dict]) -> Runs:
    """COCO RLEs, checked.

    raises  TypeError, ValueError: for an RLE that does not fill its image, among others
    """
    from htc_fast.ops import _rle

    return _rle.read("rles", rles)


def rasterized(objects: Sequence[list], height: int, width: int) -> list[dict]:
    """Objects, each a list of polygons, as compressed RLEs, counts as bytes."""
    from htc_fast import ops

    return ops.rasterize(objects, (height, width))


def encoded(masks: np.ndarray) -> list[dict]:
    """Masks [K, H, W], not 0 where they are, as compressed RLEs, counts as bytes."""
    from htc_fast import ops

    return ops.encode(masks)


def joined(first: Runs, second: Runs) -> Runs:
    """The masks of both, in that order."""
    return type(first)(
        torch.cat([first.runs, second.runs]),
        torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        torch.cat([first.sizes, second.sizes]),
    )


def areas(masks: Runs) -> Tensor:
    """Pixels of each mask, int64 [K]."""
    before = torch.cat([masks.runs.new_zeros(1), (masks.runs[:, 1] - masks.runs[:, 0]).cumsum(0)])
    return before[masks.offsets].diff()


def bitmaps(rles: Sequence[dict], height: int, width: int) -> np.ndarray:
    """COCO RLEs as a map each, uint8 [K, H, W], 0 or 1.

    raises  ValueError where one does not fill its image, or that is of another size
    """
    from htc_fast import ops

    found = ops.decode(rles).numpy() if len(rles) else np.zeros((0, height, width), dtype=bool)
    if found.shape[1:] != (height, width):
        raise ValueError(f"expected masks of {[height, width]} pixels, got {list(found.shape[1:])}.")
    return found.view(np.uint8)


def layers(masks: Runs, height: int, width: int) -> np.ndarray:
    """Index maps [L, H, W], int16 or int32; see `to_layers`."""
    from htc_fast.ops import _layers

    homes, numbers = _layers.place(masks), torch.arange(1, len(masks.sizes) + 1)
    dtype = torch.int16 if len(numbers) <= np.iinfo(np.int16).max else torch.int32
    depth = int(homes.max()) + 1 if len(homes) else 1
    return _layers.paint(masks, (height, width), numbers, layers=homes, maps=depth, dtype=dtype).numpy()


def painted(masks: Runs, height: int, width: int, values: Tensor, order: Tensor, fill: int) -> np.ndarray:
    """One map, uint8 [H, W]: on `fill` the masks order[i], one on the other, with values[i]."""
    from htc_fast.ops import _layers

    return _layers.paint(masks, (height, width), values, order=order, fill=fill)[0].numpy()


def measured(maps: Tensor, length: int) -> Measures:
    """Areas, boxes and homes by number of what is in layers."""
    from htc_fast.ops import _layers

    return _layers.measure(maps, length)


def taken(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps [L, H, W] -> [L, h, w]: the pixels of these rows and columns."""
    from htc_fast.ops import _layers

    return _layers.take(maps, rows, columns)
