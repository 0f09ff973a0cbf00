"""What pairs of masks share: of whole masks a product of zeros and ones, of run lengths a walk along both."""

import torch
from torch import Tensor


def counts_of_masks(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a [A, H, W], b [B, H, W] of bool -> pixels shared [A, B], areas [A] and [B], int64."""
    first, second = a.flatten(1).double(), b.flatten(1).double()
    return (first @ second.T).long(), first.sum(dim=1).long(), second.sum(dim=1).long()


def counts_of_runs(
    runs_a: Tensor, offsets_a: Tensor, runs_b: Tensor, offsets_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of masks as runs."""
    first, second = lists(runs_a, offsets_a), lists(runs_b, offsets_b)
    shared = torch.tensor([[pixels_shared(one, other) for other in second] for one in first], dtype=torch.int64)
    area_a, area_b = (torch.tensor([area(one) for one in some], dtype=torch.int64) for some in (first, second))
    return shared.reshape(len(first), len(second)), area_a, area_b


def lists(runs: Tensor, offsets: Tensor) -> list[list[list[int]]]:
    """Each mask's runs [begin, end]."""
    return [runs[first:last].tolist() for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist())]


def area(runs: list[list[int]]) -> int:
    """How many pixels a mask covers."""
    return sum(end - begin for begin, end in runs)


def pixels_shared(a: list[list[int]], b: list[list[int]]) -> int:
    """How many pixels two masks have in common."""
    shared = i = j = 0
    while i < len(a) and j < len(b):
        shared += max(0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return shared
