"""Two by two pixels as one, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fold(maps: Tensor) -> Tensor:
    """maps [N, 3, 2h, 2w] -> [N, 16, h, w]: upper and lower pixels; of each left, right, two zeros."""
    count, channels, height, width = maps.shape
    parts = maps.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return F.pad(parts.flatten(2, 3), (0, 0, 0, 0, 0, 8 - 2 * channels)).flatten(1, 2)


def fold_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    height, width = images.shape[2:]
    return fold(F.pad(images.to(dtype), (4, 2 + width % 2, 4, 2 + height % 2)))


def fold_weight(weight: Tensor) -> Tensor:
    return fold(F.pad(weight, (1, 0, 1, 0)))
