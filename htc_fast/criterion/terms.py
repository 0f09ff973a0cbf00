"""What every loss is made of: a sum and a count, divided at the end."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Term:
    """One loss: weighted sum, and how many items it is the mean of (device scalars)."""

    total: Tensor
    count: Tensor


def divide(terms: dict[str, Term]) -> dict[str, Tensor]:
    """Every sum by its count, at least 1; with several processes by the mean count, in one collective."""
    counts = torch.stack([term.count.float() for term in terms.values()])
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world > 1:
        dist.all_reduce(counts)
    shares = (counts.clamp(min=1) / world).unbind()
    return {name: term.total / share for (name, term), share in zip(terms.items(), shares, strict=True)}


def take(values: Tensor, index: Tensor) -> Tensor:
    """values [N, G, 4] at index [N, S] -> [N, S, 4]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
