"""A training sample's masks, from polygons to the network's size, beside the way through bitmaps and pycocotools.

Ours: polygons, runs, index maps and the derived semantic map, both resized. The rival gives what detectors' loaders
give, a map for each object; the layers that we had before were painted of these one by one.
"""

import numpy as np
import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import select
from htc_fast.data import runs
from htc_fast.data.annotations import Picture
from htc_fast.data.layers import resized
from htc_fast.data.masks import to_rles
from htc_fast.data.semantic import Derived

PICTURE, SIZE, CLASSES = (480, 800), (800, 1333), 80
USUAL, MANY = [(7,), (30,)], [(300,)]


def outlines(count: int, height: int, width: int) -> list[list[list[float]]]:
    """Objects of one polygon each, in all about as large as the picture, wherever they are."""
    random, angle = np.random.default_rng(count), np.linspace(0, 2 * np.pi, 30, endpoint=False)
    circle, found = np.stack([np.cos(angle), np.sin(angle)], axis=1), []
    for _ in range(count):
        radius = (height * width / count) ** 0.5 * random.uniform(0.2, 0.8) * random.uniform(0.8, 1.2, (30, 1))
        points = random.uniform(0, 1, 2) * (width, height) + radius * circle
        found.append([points.clip(0, (width, height)).round(2).ravel().tolist()])
    return found


def ours(polygons, labels, picture, size):
    """Layers [L, H, W] and the semantic map [H, W]."""
    masks = runs.read(to_rles(polygons, picture.height, picture.width))
    layers = runs.layers(masks, picture.height, picture.width)
    semantic = Derived(CLASSES).read(picture, masks, labels)
    return resized(torch.from_numpy(layers), size), resized(torch.from_numpy(semantic), size)


def alike(made, other, who):
    """Every object has the same pixels, and every pixel the same class."""
    layers, bitmaps = made[0], other[0]
    for number, bitmap in enumerate(bitmaps, start=1):
        assert torch.equal((layers == number).any(dim=0), bitmap > 0), f"differs from {who}"
    assert torch.equal(made[1], other[1]), f"differs from {who}"


@pytest.mark.parametrize("count", select(USUAL, MANY, MANY))
def bench_training_masks(compare, draw, count):
    (height, width), size = ((48, 80), (80, 133)) if draw.tiny else (PICTURE, SIZE)
    polygons = outlines(count, height, width)
    labels, picture = np.arange(count) % CLASSES, Picture(1, "a.jpg", height, width)
    rival = rivals.pycocotools_training_masks(polygons, labels, (height, width), size, CLASSES)
    calls = {"htc_fast": lambda: ours(polygons, labels, picture, size), "pycocotools, bitmaps": rival}
    compare(f"{count} objects", calls, alike, dtype=torch.int16, backend="cpp", pictures=1)
