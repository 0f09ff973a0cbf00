"""The named cases of refine and detections: what the box heads of a cascade give, for every backend."""

from dataclasses import dataclass

import torch
from torch import Tensor

STD = (0.1, 0.1, 0.2, 0.2)
SIZES = ((60, 90), (45, 80), (30, 30))  # height, width of the images


@dataclass(frozen=True)
class Case:
    images: int = 2
    rows: int = 20
    classes: int = 5
    stages: int = 3
    by_class: bool = False
    average: str = "logits"
    threshold: float = 0.1
    limit: int = 30
    dtype: torch.dtype = torch.float32
    strided: bool = False
    spread: float = 80.0  # of the boxes' centres: small ones overlap
    seed: int = 0


class Inputs:
    """logits, deltas, boxes, valid and image_sizes as `detections` takes them, with some rows that repeat others."""

    def __init__(self, case: Case):
        self.case = case
        self.generator = torch.Generator().manual_seed(case.seed)
        images, rows, columns = case.images, case.rows, 4 * (case.classes if case.by_class else 1)
        self.logits = [self.normal(images, rows, case.classes + 1) * 2 for _ in range(case.stages)]
        self.deltas = self.normal(images, rows, columns)
        centre = torch.rand(images, rows, 2, generator=self.generator) * case.spread
        side = torch.rand(images, rows, 2, generator=self.generator) * 25 + 1
        self.boxes = torch.cat([centre - side / 2, centre + side / 2], dim=2)
        self.valid = torch.rand(images, rows, generator=self.generator) > 0.1
        self.image_sizes = torch.tensor(SIZES)[:images]
        for one in (*self.logits, self.deltas, self.boxes):
            one[:, rows // 2 : rows // 2 + 3] = one[:, :1]  # equal scores
        if case.strided:
            self.logits = [self.spaced(one) for one in self.logits]
            self.deltas, self.boxes = self.spaced(self.deltas), self.spaced(self.boxes)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.case.dtype)

    @staticmethod
    def spaced(one: Tensor) -> Tensor:
        """The same with its columns farthest apart, and gaps between all."""
        room = one.new_zeros(one.shape[2], one.shape[1], one.shape[0] * 2)
        view = room[:, :, ::2].permute(2, 1, 0)
        view.copy_(one)
        return view

    @property
    def arguments(self) -> tuple:
        return self.logits, self.deltas, self.boxes, self.valid, self.image_sizes

    @property
    def options(self) -> dict:
        case = self.case
        return {
            "std": STD,
            "score_average": case.average,
            "score_threshold": case.threshold,
            "iou_threshold": 0.5,
            "limit": case.limit,
        }
