"""Masks that are compared: drawn ones of every kind, as whole masks and as RLE dicts."""

from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """kind: "boxes", "blobs" (several runs in a column), "noise", "full", "mixed" (all of them, and empty ones)."""

    a: int = 9
    b: int = 7
    size: tuple[int, int] = (37, 53)
    kind: str = "mixed"


CASES = {
    "usual": Case(),
    "boxes": Case(kind="boxes", size=(60, 90)),
    "blobs": Case(kind="blobs", size=(61, 97)),
    "noise": Case(kind="noise"),
    "full": Case(kind="full", a=2, b=3),
    "many": Case(70, 90, (24, 30)),
    "large": Case(2, 2, (230, 311), "blobs"),
    "one_pixel": Case(size=(1, 1)),
    "one_row": Case(size=(1, 300)),
    "one_column": Case(size=(300, 1)),
    "whole_words": Case(size=(16, 64)),
    "none_of_a": Case(a=0),
    "none_of_b": Case(b=0),
    "none": Case(a=0, b=0),
    "no_pixels": Case(size=(0, 9)),
}


def draw(count: int, size: tuple[int, int], kind: str = "mixed", seed: int = 0) -> Tensor:
    """masks [count, H, W] of bool"""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for index in range(count):
        chosen = ("boxes", "blobs", "noise", "empty", "full")[index % 5] if kind == "mixed" else kind
        masks[index] = one(generator, size, chosen)
    return torch.from_numpy(masks)


def one(generator: np.random.Generator, size: tuple[int, int], kind: str) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    if kind == "noise":
        return generator.random(size) < generator.choice([0.02, 0.5, 0.9])
    if kind in ("empty", "full"):
        return np.full(size, kind == "full")
    (y1, y2), (x1, x2) = (np.sort(generator.integers(0, side + 1, 2)) for side in size)
    box = (y >= y1) & (y < y2) & (x >= x1) & (x < x2)
    return box if kind == "boxes" else box & ((x // 3 + y // 4) % 3 != 0)


def rles_of(masks: Tensor) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(one)) for one in masks.numpy().astype(np.uint8)]


def coco_iou(a: list[dict], b: list[dict], crowd=None) -> Tensor:
    """pycocotools' [A, B]; of none it gives a list."""
    flags = [0] * len(b) if crowd is None else [int(one) for one in crowd]
    return torch.tensor(np.asarray(coco_mask.iou(a, b, flags))).double().reshape(len(a), len(b))


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> Tensor:
    """One mask [H, W]."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2
