"""Maps for encode_logits and encode_prototypes: named cases, drawn ones, and what the references make of them."""

from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from htc_fast.ops.reference import encode_logits, encode_prototypes
from tests.ops.mask_cases import coco_strings
from tests.simt import emulator

NAN, INF = float("nan"), float("inf")
# maps, map size, image size, the map's cells that the image shows
CASES = {
    "usual": (3, (14, 20), (60, 90), None),
    "one_cell": (3, (1, 1), (20, 30), None),
    "flat_maps": (3, (1, 9), (40, 50), None),
    "tall_maps": (3, (33, 2), (150, 20), None),
    "words_of_cells": (2, (64, 5), (190, 20), None),
    "more_than_a_word": (2, (150, 7), (260, 30), None),
    "wide_image": (2, (14, 14), (12, 300), None),
    "tall_image": (2, (14, 14), (300, 12), None),
    "one_pixel": (3, (28, 28), (1, 1), None),
    "same_size": (3, (31, 17), (31, 17), None),
    "no_maps": (0, (28, 28), (30, 40), None),
    "no_pixels": (2, (28, 28), (0, 40), None),
    "no_columns": (2, (28, 28), (30, 0), None),
    "many": (150, (3, 3), (9, 7), None),
    "shrinks": (3, (40, 50), (9, 7), None),
    "shrinks_down": (2, (90, 4), (20, 40), None),
    "shrinks_much": (2, (200, 130), (7, 5), None),
    "letterbox": (3, (20, 20), (60, 100), (0.0, 4.0, 20.0, 16.0)),
    "crop": (3, (20, 24), (50, 70), (1.25, 2.75, 19.625, 17.125)),
    "inside_a_cell": (2, (5, 5), (40, 30), (2.25, 3.125, 2.375, 3.625)),
    "last_cells": (2, (6, 7), (40, 30), (6.0, 4.5, 7.0, 6.0)),
}
# smooth, noise, steps: whole numbers; level: all at the threshold or next to it; strange: with NaN and infinities.
KINDS = ("smooth", "noise", "steps", "level", "strange")
THRESHOLDS = (0.0, 0.3, -0.7, 1e-8, -1e-38, 5.0, INF, -INF)
STRANGE_BOXES = [[NAN, 0, 20, 20], [0, 0, INF, 20], [-INF, 5, INF, 9], [5, 5, 5, 20], [20, 5, 10, 9], [100, 5, 120, 9],
                 [3.1, 3.1, 3.2, 9], [-1e30, -1e30, 1e30, 1e30], [0, 0, 1, 1], [39, 29, 40, 30], [-30, -30, -1, -1],
                 [0, 0, 40, 30]]  # fmt: skip


def draw(count: int, size: tuple[int, int], kind: str = "smooth", threshold: float = 0.0, seed: int = 0) -> Tensor:
    """Logits [count, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, *size, generator=generator)
    if kind == "smooth" and min(size) > 6 and count:
        return F.avg_pool2d(maps[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    if kind == "level":
        beside = torch.nextafter(torch.tensor(threshold), torch.tensor(INF))
        return torch.where(maps > 1, beside, torch.full_like(maps, threshold))
    if kind == "strange":
        for index, value in enumerate((NAN, INF, -INF, 3e38, -3e38)):
            maps[(maps * 100).round() % 17 == index] = value
    return maps.round() if kind == "steps" else maps


def draw_prototypes(count: int, size, image, kind: str = "smooth", seed: int = 0, channels: int = 5) -> list[Tensor]:
    """coefficients [K, P], prototypes [P, h, w], boxes [K, 4], some beyond the image, some turned round, some whole."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.tensor([image[1], image[0]], dtype=torch.float32)
    corner = (torch.rand(count, 2, generator=generator) * 1.2 - 0.2) * reach
    boxes = torch.cat([corner, corner + (torch.rand(count, 2, generator=generator) * 1.2 - 0.1) * reach], dim=1)
    coefficients = torch.randn(count, channels, generator=generator)
    return [coefficients, draw(channels, size, kind, seed=seed + 1), boxes.round() if seed % 2 else boxes]


def whole(maps: Tensor, crop: tuple[float, ...] | None) -> list[float]:
    """In float32, as kernels have it."""
    return torch.tensor(crop or (0, 0, maps.shape[-1], maps.shape[-2]), dtype=torch.float32).tolist()


def wanted(logits: Tensor, image, threshold: float = 0.0, crop=None) -> list[bytes]:
    """The strings of the reference's masks."""
    return coco_strings(encode_logits.encode_logits(logits, *image, threshold, whole(logits, crop)))


def wanted_of(inputs, image, threshold: float = 0.0, crop=None, cut: str = "after") -> list[bytes]:
    region = whole(inputs[1], crop)
    return coco_strings(encode_prototypes.encode_prototypes(*inputs, *image, threshold, region, cut == "after"))


def strings(found: list[dict]) -> list[bytes]:
    return [one["counts"] for one in found]


def drawn(examples: int) -> Callable:
    """Makes of a test of (column, size, image, crop, kind, threshold, cut, seed) one that draws them, always alike."""

    @st.composite
    def regions(drawing):
        """A size and a part of it, in eighths of a cell."""
        size = drawing(st.tuples(st.integers(1, 70), st.integers(1, 24)))
        ends = [sorted(drawing(st.lists(st.integers(0, 8 * side), min_size=2, max_size=2, unique=True)))
                for side in size[::-1]]  # fmt: skip
        (x1, x2), (y1, y2) = ends
        return size, drawing(st.sampled_from([None, (x1 / 8, y1 / 8, x2 / 8, y2 / 8)]))

    def decorate(test: Callable) -> Callable:
        drawing = given(
            region=regions(),
            image=st.tuples(st.integers(1, 150), st.integers(1, 60)),
            kind=st.sampled_from(KINDS),
            threshold=st.sampled_from([0.0, 0.5, -0.3]),
            cut=st.sampled_from(["before", "after"]),
            seed=st.integers(0, 999),
        )
        how = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
        return settings(max_examples=emulator.examples(examples), **how)(drawing(test))

    return decorate
