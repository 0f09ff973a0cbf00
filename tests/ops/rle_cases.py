"""Masks for the operators on run lengths: named ones, drawn ones, and the strings that pycocotools makes of them."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor

KINDS = ("disc", "noise", "zeros", "ones", "chequered", "columns", "window", "sparse")
# masks, height, width, kind
CASES = {
    "usual": (4, 90, 140, "disc"),
    "window": (3, 130, 190, "window"),
    "noise": (3, 65, 127, "noise"),
    "zeros": (2, 40, 70, "zeros"),
    "ones": (2, 130, 70, "ones"),
    "chequered": (2, 63, 66, "chequered"),
    "columns_that_join": (2, 100, 150, "columns"),
    "rows_between_empty_blocks": (2, 700, 65, "sparse"),
    "block": (2, 64, 64, "noise"),
    "one_row": (3, 1, 300, "noise"),
    "one_column": (3, 300, 1, "noise"),
    "one_pixel": (2, 1, 1, "ones"),
    "no_masks": (0, 30, 40, "zeros"),
    "no_rows": (2, 0, 40, "zeros"),
    "no_columns": (2, 30, 0, "zeros"),
    "many": (150, 9, 7, "noise"),
    "wide": (1, 9, 9000, "disc"),
    "parts_with_few_changes": (1, 20, 5000, "window"),
}


def draw(count: int, height: int, width: int, kind: str, seed: int = 0) -> Tensor:
    """[count, height, width] bool"""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        (top, bottom), (left, right) = (np.sort(generator.integers(0, side + 1, 2)) for side in (height, width))
        if kind == "disc":
            mask[:] = np.hypot(y - top, x - left) < generator.random() * max(height, width)
        elif kind == "noise":
            mask[:] = generator.random(mask.shape) < generator.random()
        elif kind == "ones":
            mask[:] = True
        elif kind == "chequered":
            mask[:] = (x + y) % 2
        elif kind == "columns":
            mask[:, left:right] = True
        elif kind == "window":
            mask[top:bottom, left:right] = True
        elif kind == "sparse":
            mask[:] = generator.random(mask.shape) < 2e-3
    return torch.from_numpy(masks)


def coco(masks: Tensor) -> list[dict]:
    """What pycocotools writes, its sizes as lists."""
    made = coco_mask.encode(np.asfortranarray(masks.permute(1, 2, 0).byte().numpy()))
    return [{"size": list(one["size"]), "counts": one["counts"]} for one in made]


def drawn(examples: int):
    """A test of (height, width, kind, seed) that draws its cases, always the same ones."""
    how = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    sides = st.one_of(st.integers(1, 20), st.integers(60, 70), st.integers(120, 200))
    cases = given(height=sides, width=sides, kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000))
    return lambda test: settings(max_examples=examples, **how)(cases(test))
