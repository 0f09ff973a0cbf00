"""A fixed number of candidates per image, positives first, drawn by priority.

A sampler is any function (assigned [N, R], generator) -> priority [N, R]; the highest are drawn.
`random_sampler` is the paper's; a recorded draw is replayed by giving its members the highest priorities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from htc_fast.criterion.matching import NEGATIVE

Sampler = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass
class Sample:
    """Drawn candidates, positives first, then negatives, then padding.

    index     [N, S] int64  into the candidates (0 where padded)
    positive  [N, S] bool
    valid     [N, S] bool   False: padding
    gt        [N, S] int64  ground-truth index of the positives (0 elsewhere)
    """

    index: Tensor
    positive: Tensor
    valid: Tensor
    gt: Tensor

    def take(self, values: Tensor) -> Tensor:
        """The sampled rows of values [N, R, ...] -> [N, S, ...]."""
        shape = self.index.shape + values.shape[2:]
        return values.gather(1, self.index.view(*self.index.shape, *[1] * (values.dim() - 2)).expand(shape))


def random_sampler(assigned: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniformly random priorities [N, R]; the generator lives on the candidates' device."""
    return torch.rand(assigned.shape, generator=generator, device=assigned.device)


def sample(assigned: Tensor, priority: Tensor, count: int, positive_fraction: float) -> Sample:
    """Draw up to count * positive_fraction positives, and negatives for the rest.

    assigned  [N, R]  from `match`
    priority  [N, R]  finite; higher is drawn first
    returns   Sample with S = count
    """
    candidates = assigned.shape[1]
    positives = _draw(assigned >= 0, priority, min(int(count * positive_fraction), candidates))
    negatives = _draw(assigned == NEGATIVE, priority, min(count, candidates))
    drawn = positives[1].sum(dim=1, keepdim=True)
    available = negatives[1].sum(dim=1, keepdim=True)
    column = torch.arange(count, device=assigned.device)[None]
    positive = column < drawn
    valid = positive | (column - drawn < available)
    # Negatives close up behind the positives: column j holds positive j, or negative j - drawn.
    source = torch.where(positive, column, column - drawn + positives[0].shape[1])
    index = torch.cat([positives[0], negatives[0]], dim=1).gather(1, torch.where(valid, source, 0))
    index = torch.where(valid, index, 0)
    return Sample(index, positive, valid, assigned.gather(1, index).clamp(min=0).masked_fill(~positive, 0))


def _draw(eligible: Tensor, priority: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` eligible candidates of highest priority, [N, count], and which of them are real."""
    keys, index = priority.masked_fill(~eligible, -torch.inf).topk(count, dim=1)
    return index, keys > -torch.inf
