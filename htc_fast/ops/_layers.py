"""Index maps that many masks of one picture share: painted from runs, measured, and taken in another size.

What data keeps its masks in; private, as the form is. Masks are `_rle.Runs`, all of one picture's size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from htc_fast.ops import _backend, _native
from htc_fast.ops._declare import declare
from htc_fast.ops._rle import Runs
from htc_fast.ops.reference import layers as reference


class Measures(NamedTuple):
    """What index maps hold of each number, [length] or [length, 4] int64; zeros where it has no pixel."""

    areas: Tensor
    boxes: Tensor  # first column and row, those after the last
    layers: Tensor


def place(masks: Runs) -> Tensor:
    """Into which layer each mask goes, int64 [K]: the first where its pixels are free of those before it."""
    return _forms().place_runs(*masks)


def paint(
    masks: Runs,
    image_size: tuple[int, int],
    values: Tensor,
    *,
    order: Tensor | None = None,
    layers: Tensor | None = None,
    maps: int = 1,
    fill: int = 0,
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Maps [maps, H, W] of `fill`, over which masks are painted one after the other.

    values  [N] int64, what each paints
    order   [N] int64, which mask that is; None: all of them as they come
    layers  [N] int64, into which map; None: the only one
    dtype   uint8, int16 or int32
    """
    order = torch.arange(len(values)) if order is None else order
    layers = torch.zeros(len(values), dtype=torch.int64) if layers is None else layers
    return _forms().paint_runs(*masks, order, values, layers, maps, *image_size, fill, dtype.itemsize)


def measure(layers: Tensor, length: int) -> Measures:
    """What is in index maps [L, H, W], int16 or int32, by number from 0 to length; 0 is nobody."""
    found = _forms().measure_layers(layers.contiguous(), length)
    return Measures(found[:, 0], found[:, 1:5], found[:, 5])


def take(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """maps [L, H, W] -> [L, h, w]: pixel (y, x) is that of rows[y] and columns[x]."""
    return _forms().take_pixels(maps.contiguous(), rows, columns)


def _forms():
    """The kernels, or the same in plain PyTorch."""
    if _backend.forced_backend() == "reference":
        return reference
    _native.require()
    return torch.ops.htc_fast


def _fake_paint(runs, offsets, sizes, order, values, layers, maps, height, width, fill, size):
    return runs.new_empty(maps, height, width, dtype={1: torch.uint8, 2: torch.int16, 4: torch.int32}[size])


declare(
    "place_runs(Tensor runs, Tensor offsets, Tensor sizes) -> Tensor",
    lambda runs, offsets, sizes: sizes.new_empty(sizes.shape[0]),
)
declare(
    "paint_runs(Tensor runs, Tensor offsets, Tensor sizes, Tensor order, Tensor values, Tensor layers, int maps, "
    "int height, int width, int fill, int bytes) -> Tensor",
    _fake_paint,
)
declare(
    "measure_layers(Tensor layers, int length) -> Tensor",
    lambda layers, length: layers.new_empty(length, 6, dtype=torch.int64),
)
declare(
    "take_pixels(Tensor maps, Tensor rows, Tensor columns) -> Tensor",
    lambda maps, rows, columns: maps.new_empty(maps.shape[0], rows.shape[0], columns.shape[0]),
)
