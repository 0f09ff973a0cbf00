"""Matrix NMS: a mask's score is multiplied by the least of what every better mask of its class leaves of it.

What a better one leaves, f(overlap), is divided by f of its own largest overlap with those better than itself: who is
likely to be gone decays little.
"""

import torch
from torch import Tensor


def decayed(overlaps: Tensor, scores: Tensor, idxs: Tensor, kernel: str, sigma: float) -> Tensor:
    """overlaps [K, K], scores [K], idxs [K] -> decayed scores [K], of the scores' type."""
    if len(scores) == 0:
        return scores.clone()
    valid = ~scores.isnan()
    order = torch.sort(torch.where(valid, scores, -torch.inf), descending=True, stable=True).indices
    # Row by column: a better mask over a worse one of its class.
    alike = (idxs[:, None] == idxs) & valid[:, None] & valid
    overlap = torch.where(alike, overlaps, 0.0)[order][:, order].triu(diagonal=1)
    own = overlap.amax(dim=0)[:, None]
    if kernel == "gaussian":
        # The least of exp(-s a) / exp(-s b) is where a - b is largest.
        left = torch.exp(-sigma * (overlap * overlap - own * own).amax(dim=0))
    else:
        # What a better mask covers wholly is gone: it takes nothing from others.
        left = torch.where(own < 1, (1 - overlap) / (1 - own), torch.inf).amin(dim=0)
    left = torch.empty_like(left).scatter(0, order, left.clamp(max=1.0))
    return (scores.double() * left).to(scores.dtype)
