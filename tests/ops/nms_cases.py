"""NMS's named cases, for every backend of nms and soft_nms."""

import torch
from torch import Tensor


def draw(images: int, count: int, classes: int, seed: int = 0, spread: float = 60) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [N, B, 4], scores [N, B] with many ties, idxs [N, B]: any integers."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, count, 2, generator=generator) * spread
    size = torch.rand(images, count, 2, generator=generator) * 25 + 1
    scores = (torch.rand(images, count, generator=generator) * 99).round() / 99
    idxs = torch.randint(-1, classes - 1, (images, count), generator=generator) * 1000003
    return torch.cat([centre - size / 2, centre + size / 2], dim=2), scores, idxs


def break_some(boxes: Tensor, scores: Tensor) -> None:
    """NaN, infinite, inside-out, flat and gigantic boxes; NaN, infinite and signed-zero scores."""
    strange = [[torch.nan, 0, 1, 1], [0, 0, torch.inf, 1], [5, 5, 1, 1], [3, 3, 3, 3], [-1e20, -1e20, 1e20, 1e20]]
    boxes[:, 10:15] = torch.tensor(strange)
    scores[:, 20], scores[:, 21], scores[:, 22], scores[:, 23] = torch.nan, torch.inf, -0.0, 0.0
