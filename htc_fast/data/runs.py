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


def written(runs: np.ndarray, offsets: np.ndarray, size: Sequence[int]) -> list[dict]:
    """Runs of ones [T, 2] of one picture, mask k's from offsets[k] on, as compressed RLEs, counts as bytes."""
    from htc_fast.ops import _rle

    sizes = torch.tensor([list(size)]).repeat(len(offsets) - 1, 1)
    return _rle.write(_rle.Runs(torch.from_numpy(runs), torch.from_numpy(offsets), sizes))


def sizes(rles: Sequence[dict]) -> tuple[list[int], list[list[float]]]:
    """Pixels of each mask, and the box around them: x1, y1, x2, y2."""
    from htc_fast import ops

    return ops.rle_area(rles).tolist(), ops.rle_to_box(rles).tolist()


def union(rles: Sequence[dict]) -> dict:
    """All that masks cover together, as one compressed RLE, counts as bytes."""
    from htc_fast import ops

    return ops.merge(rles)


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


def centroids(masks: Runs) -> Tensor:
    """Mean x, y of each mask's pixel centres, float64 [K, 2]; the first one is 0.5, 0.5; NaN without pixels."""
    height = masks.sizes[:, 0].repeat_interleave(masks.offsets.diff())
    begin, end = masks.runs.unbind(1)
    # Pixel p lies in column p // height: their sums below a pixel are known without looking at each.
    whole_begin, whole_end = begin // height, end // height
    columns = height * (whole_end * (whole_end - 1) - whole_begin * (whole_begin - 1)) // 2
    columns += whole_end * (end % height) - whole_begin * (begin % height)
    rows = (end * (end - 1) - begin * (begin - 1)) // 2 - height * columns
    sums = torch.stack([columns, rows], dim=1).cumsum(0)
    sums = torch.cat([sums.new_zeros(1, 2), sums])[masks.offsets].diff(dim=0)
    return sums / areas(masks)[:, None].double() + 0.5


def outlines(rles: Sequence[dict], holes: str) -> list[list]:
    """The pieces of each mask; see `ops.rle_to_polygons`."""
    from htc_fast import ops

    return ops.rle_to_polygons(rles, holes)


def window(rle: dict, box: Sequence[int]) -> np.ndarray:
    """A mask's pixels x1, y1, x2, y2, bool [y2 - y1, x2 - x1]."""
    from htc_fast import ops

    return ops.decode([ops.crop(rle, box)])[0].numpy()


def resized(rles: Sequence[dict], height: int, width: int) -> list[dict]:
    """Masks at another size; see `ops.resize`."""
    from htc_fast import ops

    return ops.resize(rles, (height, width))


def cropped(rles: Sequence[dict], box: tuple[int, int, int, int]) -> list[dict]:
    """What a window x1, y1, x2, y2 shows of COCO RLEs."""
    from htc_fast import ops

    return ops.crop(list(rles), box)


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
