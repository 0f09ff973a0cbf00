"""Random windows of large pictures to train on, cut before anything is decoded or resized, so that small objects stay.

Four in five hold an object, drawn evenly from all of the picture's, whole where it fits; the others lie anywhere, as
most tiles of a large picture are background. All draws come from torch's generator.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from htc_fast.data import runs
from htc_fast.data.annotations import Annotation, Picture
from htc_fast.data.masks import box_of, to_rles
from htc_fast.errors import say_once

HOLDING = 0.8  # share of windows that are drawn around an object
# What is left of an object goes where it is less than a quarter of it, and narrower than 1/32 of the window.
LEAST_SHARE, NARROW = 0.25, 1 / 32
Window = tuple[int, int, int, int]  # x1, y1, x2, y2


def drawn(picture: Picture, side: int) -> tuple[Picture, Window]:
    """A window of a picture, at most `side` pixels wide and high, and the picture as it is seen there.

    returns  a Picture of the window's size, with the annotations that have pixels in it; and the window
    """
    width, height = min(side, picture.width), min(side, picture.height)
    left, top = 0, 0
    if (width, height) != (picture.width, picture.height):
        boxes = [one.box for one in picture.annotations if one.trainable]
        x1, y1, x2, y2 = (0.0, 0.0, float(picture.width), float(picture.height))
        if boxes and float(torch.rand(())) < HOLDING:
            x1, y1, x2, y2 = boxes[int(torch.randint(0, len(boxes), ()))]
        left, top = _start(x1, x2, width, picture.width), _start(y1, y2, height, picture.height)
    window = (left, top, left + width, top + height)
    return seen(picture, window), window


def seen(picture: Picture, window: Window) -> Picture:
    """A picture as it is seen in a window: masks are cut, and what is cut has the box of what is left.

    Slivers that are trained on go: what is less than a quarter of its object, and narrower than 1/32 of the window.
    """
    x1, y1, x2, y2 = window
    if (x2 - x1, y2 - y1) == (picture.width, picture.height):
        return picture
    there = [one for one in picture.annotations if _overlaps(one.box, window)]
    masks = to_rles([one.segmentation for one in there], picture.height, picture.width)
    before = runs.areas(runs.read(masks)).tolist()
    masks = runs.cropped(masks, window)
    after = runs.areas(runs.read(masks)).tolist()
    kept = [_cut(*one, window) for one in zip(there, masks, before, after, strict=True) if one[3]]
    return replace(picture, height=y2 - y1, width=x2 - x1, annotations=[one for one in kept if one is not None])


def say_few(name: str, sizes: Sequence[tuple[int, int]], side: int) -> None:
    """Say once that an epoch, which takes a window of each picture, shows a small part of large ones.

    sizes  (height, width) of the pictures to train on
    """
    held = sum(-(-height // side) * -(-width // side) for height, width in sizes)
    if held >= 4 * len(sizes):
        say_once(
            f"{name}: an epoch takes one window of each picture, {len(sizes)} of some {held:,} that they hold: choose "
            "--epochs or --iterations, and --evaluate-every, by that."
        )


def _cut(item: Annotation, mask: dict, before: int, after: int, window: Window) -> Annotation | None:
    left, top, right, bottom = window
    x1, y1, x2, y2 = item.box
    if after < before or not (left <= x1 and top <= y1 and x2 <= right and y2 <= bottom):
        x, y, width, height = box_of(mask)
        narrow = min(width, height) < NARROW * max(right - left, bottom - top)
        if item.trainable and narrow and after < LEAST_SHARE * before:
            return None
        box = (x, y, x + width, y + height)
    else:
        box = (x1 - left, y1 - top, x2 - left, y2 - top)
    return replace(item, segmentation=mask, box=box, area=float(after))


def _start(low: float, high: float, length: int, limit: int) -> int:
    """Where a window of that length begins that holds all from low to high, or lies within, drawn evenly."""
    ends = math.ceil(high) - length, math.floor(low)
    first, last = (min(max(one, 0), limit - length) for one in (min(ends), max(ends)))
    return int(torch.randint(first, last + 1, ()))


def _overlaps(box: tuple[float, float, float, float], window: Window) -> bool:
    return box[0] < window[2] and box[1] < window[3] and box[2] > window[0] and box[3] > window[1]
