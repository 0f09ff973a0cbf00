"""Whole masks that encode, decode and the algebra on run lengths are measured with."""

import numpy as np
import torch
from torch import Tensor

# masks, (height, width), what they show
USUAL = [(100, (1080, 1920), "blobs"), (20, (3000, 4000), "blobs")]
QUICK = [(10, (480, 640), "blobs")]
REST = [(8, (1080, 1920), "noise")]


def masks(count: int, image: tuple[int, int], kind: str) -> Tensor:
    """[count, H, W] bool: smooth outlines of a few per cent of the image, or half of all pixels by chance."""
    generator, (height, width) = np.random.default_rng(0), image
    made = np.zeros((count, height, width), dtype=bool)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for mask in made:
        if kind == "noise":
            mask[:] = generator.random(image) < 0.5
            continue
        centre, size = generator.random(2) * image, (0.05 + 0.25 * generator.random()) * min(image)
        y, x = rows - centre[0], columns - centre[1]
        waves = 1 + 0.3 * np.sin(3 * np.arctan2(y, x) + 6 * generator.random())
        mask[:] = np.hypot(y, x) < size * waves
    return torch.from_numpy(made)


def words(count: int, image: tuple[int, int], kind: str) -> str:
    return f"{count} masks of {image[0]}×{image[1]}, {kind}"
