"""Masks and boxes for paste_masks and encode_masks: named cases, drawn ones, strange boxes."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from tests.simt import emulator

# masks, mask size, image size
CASES = {
    "usual": (4, (28, 28), (90, 140)),
    "one_cell": (3, (1, 1), (20, 30)),
    "flat_masks": (3, (1, 9), (40, 50)),
    "tall_masks": (3, (33, 2), (150, 20)),
    "wide_image": (2, (14, 14), (12, 300)),
    "tall_image": (2, (14, 14), (300, 12)),
    "one_pixel": (3, (28, 28), (1, 1)),
    "no_masks": (0, (28, 28), (30, 40)),
    "no_pixels": (2, (28, 28), (0, 40)),
    "no_columns": (2, (28, 28), (30, 0)),
    "many": (150, (3, 3), (9, 7)),
    "detections": (20, (28, 28), (240, 320)),
}
KINDS = ("smooth", "noise", "binary")
THRESHOLDS = (-0.5, 0.0, 0.2, 0.5, 0.99, 1.0)
NAN, INF = float("nan"), float("inf")
EMPTY = [[NAN, 0, 10, 10], [0, 0, INF, 10], [5, 5, 5, 20], [20, 5, 10, 20], [100, 5, 120, 20], [3.1, 3.1, 3.2, 9],
         [-1e30, -1e30, -1e29, 1e30]]  # fmt: skip
STRANGE = [*EMPTY, [-1e30, -1e30, 1e30, 1e30], [-1e38, 2, 1e38, 9], [-400, -300, 500, 400]]


def draw(count=20, size=(28, 28), image=(120, 170), seed=0, kind="smooth") -> tuple[Tensor, Tensor]:
    """masks [K, h, w] in 0..1, boxes [K, 4], some outside the image; "binary": zeros and ones, whole coordinates."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *size, generator=generator)
    if kind == "smooth" and min(size) > 6:
        masks = F.avg_pool2d(masks[:, None], 7, 1, 3, count_include_pad=False)[:, 0] * 3 - 1
    reach = torch.tensor([image[1], image[0]], dtype=torch.float32)
    corner = (torch.rand(count, 2, generator=generator) * 1.2 - 0.2) * reach
    extent = torch.rand(count, 2, generator=generator) ** 2 * 1.5 * reach
    boxes = torch.cat([corner, corner + extent], dim=1)
    return (masks.round(), boxes.round()) if kind == "binary" else (masks.clamp(0, 1), boxes)


def drawn(test: Callable) -> Callable:
    """A test of (column, size, image, seed, threshold, kind) that draws its cases, always the same ones."""
    how = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    sizes, images = (st.tuples(st.integers(1, most), st.integers(1, most)) for most in (33, 60))
    kinds = {"threshold": st.sampled_from(THRESHOLDS), "kind": st.sampled_from(KINDS)}
    cases = given(size=sizes, image=images, seed=st.integers(0, 10_000), **kinds)
    return settings(max_examples=emulator.examples(200), **how)(cases(test))


def strange(masks: str) -> tuple[Tensor, Tensor]:
    """Boxes that are empty, gigantic or not finite; masks of ones, or with NaN in them."""
    made = torch.ones(len(STRANGE), 14, 20)
    if masks == "nan":
        made = torch.rand(len(STRANGE), 7, 5, generator=torch.Generator().manual_seed(0))
        made[:, 2:4, 1] = torch.nan
    return made, torch.tensor(STRANGE)


def coco_strings(pasted: Tensor) -> list[bytes]:
    """What pycocotools makes of whole masks [K, H, W]."""
    return [coco_mask.encode(np.asfortranarray(one.numpy().astype(np.uint8)))["counts"] for one in pasted]


def errors(function) -> list[tuple]:
    """What both operators refuse: a call, the error, its words."""
    masks, boxes = draw(4)
    return [
        (lambda: function(masks, boxes[:3], (10, 10)), ValueError, r"boxes must be \[K, 4\] = \[4, 4\]"),
        (lambda: function(masks[:, None], boxes, (10, 10)), ValueError, r"masks must be \[K, h, w\]"),
        (lambda: function(masks.bool(), boxes, (10, 10)), TypeError, "floating point"),
        (lambda: function(masks, boxes, (-1, 10)), ValueError, "image_size"),
        (lambda: function(masks, boxes, 10), ValueError, "image_size must be height, width"),
        (lambda: function(masks.tolist(), boxes, (10, 10)), TypeError, "masks must be a tensor"),
    ]
