"""Pictures by number: read, and resized to what a network sees, in the threads that read ahead."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from htc_fast.data.pictures import load_image, resize, shrink
from htc_fast.errors import UserError
from htc_fast.models.structures import FramedLike, Predictor, ViewsLike
from htc_fast.ranges import part

Loaded = TypeVar("Loaded")
Fit = Callable[[int, int], tuple[int, int]]


class Sources(Generic[Loaded]):
    """Pictures by number, for the threads that read, or for what opens them in parts."""

    def __init__(self, sources: Sequence[Any], load: Callable[[Any], Loaded] = load_image):  # type: ignore[assignment]
        self.sources, self.load = sources, load

    def __call__(self, index: int) -> Loaded:
        source = self.sources[index]
        try:
            return self.load(source)
        except UserError as error:
            if isinstance(source, (str, os.PathLike)) or len(self.sources) == 1:
                raise
            # What has no name has its place.
            raise UserError(f"picture {index} of {len(self.sources)}: {error}") from None


@dataclass
class Picture:
    """pixels uint8 [3, h, w], resized or still to be; original and resized (height, width)."""

    pixels: Tensor
    original: tuple[int, int]
    resized: tuple[int, int]


class Reader:
    """number, or whatever `load` takes -> (that, the picture or the error in its place).

    fit     height and width of a picture -> those that the network sees; None: as they are
    device  where it goes: resizing is left to a GPU, which reads the pixels from pinned memory
    """

    def __init__(self, load: Callable[[Any], np.ndarray], fit: Fit | None, device: torch.device):
        self.load, self.fit, self.device = load, fit, device
        self.pinned = device.type == "cuda"

    def __call__(self, index: Any) -> tuple[Any, Picture | UserError]:
        try:
            array = self.load(index)
        except UserError as error:
            return index, error
        original = array.shape[0], array.shape[1]
        resized = self.fit(*original) if self.fit else original
        with part("preprocess"):
            pixels = shrink(array, None)
            pixels = pixels if self.pinned else resize(pixels, resized)
            if self.pinned:
                # A thread's own device is the first GPU, where pinning would set up a context for nothing.
                # As the pixels lie: to reorder them takes a processor longer than a GPU needs for the whole picture.
                with torch.cuda.device(self.device):
                    pixels = pixels.permute(1, 2, 0).contiguous().pin_memory().permute(2, 0, 1)
        return index, Picture(pixels, original, resized)


def grouped(model: Predictor, pictures: list[tuple[int, Picture]]) -> list[list[tuple[int, Picture]]]:
    """Pictures that a model takes at once."""
    if isinstance(model, ViewsLike):
        return [[one] for one in pictures]
    if isinstance(model, FramedLike):
        return [pictures] if pictures else []
    # Padded to one size, upright and lying pictures would be mostly padding.
    lying = [one for one in pictures if one[1].resized[0] <= one[1].resized[1]]
    upright = [one for one in pictures if one[1].resized[0] > one[1].resized[1]]
    return [group for group in (lying, upright) if group]
