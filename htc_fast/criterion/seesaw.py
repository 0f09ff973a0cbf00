"""Seesaw Loss: samples of frequent classes push rare classes down less, unless these take them for their own."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from htc_fast.criterion.sampling import Sample
from htc_fast.models.seesaw import SeesawClassifier

MITIGATION, COMPENSATION = 0.8, 2.0  # exponents of the paper: p and q
EPSILON = 0.01  # the least score of the own class that others are compared with


def seesaw_terms(
    logits: Tensor, labels: Tensor, drawn: Sample, counts: Tensor, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over a batch's samples: Seesaw Loss of the positives' classes, cross-entropy of objectness.

    logits  [N, S, C+2];  labels [N, S] int64, of the positives from 0 to C-1;  counts [C]
    most    positives are among the first so many columns; None: anywhere
    """
    logits = logits.float()
    # What is no positive has some class here, and weighs nothing.
    classes, own = logits[:, :most, :-2].flatten(0, 1), labels[:, :most].clamp(min=0).flatten()
    error = seesaw_error(classes, own, counts)
    nothing = F.cross_entropy(logits[..., -2:].flatten(0, 1), (~drawn.positive).long().flatten(), reduction="none")
    positive = drawn.positive[:, :most].flatten()
    return torch.where(positive, error, 0.0).sum(), torch.where(drawn.valid.flatten(), nothing, 0.0).sum()


def seesaw_error(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy [K] of logits [K, C], in which each other class weighs its mitigation times its compensation.

    Both factors are taken as numbers that nothing depends on: no gradient flows through them.

    labels  [K] int64;  counts [C], samples of each class so far
    source  Seesaw Loss, equations 3 to 7
    """
    with torch.no_grad():
        often = counts.clamp(min=1).to(logits.dtype).log()
        rarer = (often - often[labels][:, None]).clamp(max=0)
        scores = logits.log_softmax(dim=1)
        own = scores.gather(1, labels[:, None]).clamp(min=math.log(EPSILON))
        ahead = (scores - own).clamp(min=0)
        # Both are 0 for the own class, whose weight is 1.
        weight = MITIGATION * rarer + COMPENSATION * ahead
    return F.cross_entropy(logits + weight, labels, reduction="none")


@torch.no_grad()
def count(classifier: SeesawClassifier, labels: Tensor, positive: Tensor) -> None:
    """Add the positives of a step to the classifier's counts, in place; of all processes, in one collective.

    labels, positive  [N, S], as in `seesaw_terms`
    """
    ones, found = positive.flatten().to(torch.int64), torch.zeros_like(classifier.counts)
    found.scatter_add_(0, labels.clamp(min=0).flatten(), ones)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(found)
    classifier.counts.add_(found)
