"""Many instances in few maps: layers of index maps instead of one bitmap per instance; see `numbered` for the form."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from htc_fast.data import runs

QUICK = torch.uint8, torch.int16, torch.int32


def to_layers(rles: Sequence[dict], height: int, width: int) -> np.ndarray:
    """Compressed RLEs as index maps: each in the first layer where its pixels are free.

    returns  [L, height, width], L >= 1, int16 (int32 of more than 32767); instance i has the number i + 1
    """
    return runs.layers(runs.read(rles), height, width)


def resized(maps: Tensor, size: Sequence[int], top: int = 0, left: int = 0, window: Sequence[int] = ()) -> Tensor:
    """Maps [..., H, W] by nearest pixels, as torch's "nearest" has it.

    size              height and width
    top, left, window of the resized maps, what is wanted: from there on, of at most that height and width; (): all
    """
    ends = (top + window[0], left + window[1]) if window else size
    rows = _nearest(maps.shape[-2], size[0])[top : ends[0]]
    columns = _nearest(maps.shape[-1], size[1])[left : ends[1]]
    if maps.dtype not in QUICK or maps.device.type != "cpu":
        return maps[..., rows.to(maps.device), :][..., columns.to(maps.device)]
    found = runs.taken(maps.reshape(-1, *maps.shape[-2:]), rows, columns)
    return found.reshape(*maps.shape[:-2], len(rows), len(columns))


def _nearest(before: int, after: int) -> Tensor:
    """Which pixel along a side each of a resized one is."""
    places = torch.arange(before, dtype=torch.float32)[None, None]
    return nn.functional.interpolate(places, size=after, mode="nearest")[0, 0].long()
