"""Fusion of the pyramid in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor


def semantic_merge(features: list[Tensor], weights: list[Tensor], biases: list[Tensor], level: int) -> Tensor:
    size = features[level].shape[2:]
    parts = []
    for one, weight, bias in zip(features, weights, biases):
        if one.shape[2:] != size:
            one = F.interpolate(one, size=size, mode="bilinear", align_corners=True)
        parts.append(F.conv2d(one, weight, bias).relu())
    return sum(parts[1:], parts[0])
