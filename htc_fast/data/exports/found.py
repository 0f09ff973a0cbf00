"""What every format is made from."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Found(Protocol):
    """`Instances`, whose methods the formats are."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rle: list[dict]
    size: tuple[int, int]
    class_names: Sequence[str]
    mask_scores: Tensor | None

    @property
    def areas(self) -> Tensor: ...

    def name(self, index: int) -> str: ...


def rounded_mask_scores(found: Found) -> list[float | None]:
    """By instance; None where they are not known."""
    known = found.mask_scores
    return [None] * len(found.rle) if known is None else [round(value, 5) for value in known.tolist()]
