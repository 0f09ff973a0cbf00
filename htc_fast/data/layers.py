"""Many instances in few maps: layers of index maps instead of one bitmap per instance; see `numbered` for the form."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from htc_fast.data.masks import run_lengths

FEW = 2**16  # pixels that are cheaper listed than painted
PROBE = 499  # a prime: not the width of a picture


def to_layers(rles: Sequence[dict], height: int, width: int) -> np.ndarray:
    """Compressed RLEs as index maps: each in the first layer where its pixels are free.

    returns  [L, height, width], L >= 1, int16 (int32 of more than 32767); instance i has the number i + 1
    """
    dtype = np.int16 if len(rles) <= np.iinfo(np.int16).max else np.int32
    # Column by column, in the order in which runs count.
    layers = [np.zeros(width * height, dtype)]
    for number, rle in enumerate(rles, start=1):
        runs = run_lengths(rle["counts"])
        ends = np.cumsum(runs)
        starts, lengths = ends[:-1:2], runs[1::2]
        area = int(lengths.sum())
        if area > FEW:
            _paint(layers, number, coco_mask.decode(rle).T.reshape(-1).view(bool), starts[0], ends[-1])
        elif area:
            pixels = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(area)
            layer = next((one for one in layers if not one[pixels].any()), None)
            if layer is None:
                layer = _another(layers)
            layer[pixels] = number
    return np.stack([np.ascontiguousarray(layer.reshape(width, height).T) for layer in layers])


def _paint(layers: list[np.ndarray], number: int, bitmap: np.ndarray, first: int, end: int) -> None:
    """The same by a bitmap, of which first to end are read."""
    bitmap = bitmap[first:end]
    # A few of its pixels tell most of the layers where there is no room.
    few = np.flatnonzero(bitmap)[::PROBE]
    free = (one for one in layers if not one[first:end][few].any() and not ((one[first:end] != 0) & bitmap).any())
    layer = next(free, None)
    np.copyto((_another(layers) if layer is None else layer)[first:end], number, where=bitmap)


def _another(layers: list[np.ndarray]) -> np.ndarray:
    layers.append(np.zeros_like(layers[0]))
    return layers[-1]
