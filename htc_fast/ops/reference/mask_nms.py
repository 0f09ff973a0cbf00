"""Greedy suppression: who is best stays, and whoever overlaps it too much goes."""

import torch
from torch import Tensor


def greedy(over: Tensor, order: Tensor) -> Tensor:
    """over [K, K] bool, who overlaps whom too much; order [n] indices, best first -> those kept, best first."""
    kept, gone = [], torch.zeros(len(over), dtype=torch.bool)
    for k in order.tolist():
        if not gone[k]:
            kept.append(k)
            gone |= over[k]
    return torch.tensor(kept, dtype=torch.int64)
