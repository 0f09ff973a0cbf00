"""Pieces become one: the best grows by what it overlaps until nothing joins, then the best of those that are left."""

import torch
from torch import Tensor

from htc_fast.ops.reference.mask_iou import area, lists, pixels_shared


def merge_tiles(
    runs: Tensor, offsets: Tensor, order: Tensor, classes: Tensor | None, metric: str, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """order [n] indices, best first -> runs [T, 2] and offsets [G + 1] of what came of them, groups [K]."""
    masks, groups = lists(runs, offsets), [-1] * (len(offsets) - 1)
    merged: list[list[list[int]]] = []
    for leader in order.tolist():
        if groups[leader] >= 0:
            continue
        grown, groups[leader], before = masks[leader], len(merged), -1
        while before != groups.count(len(merged)):
            before = groups.count(len(merged))
            for k in order.tolist():
                alike = classes is None or classes[k] == classes[leader]
                if groups[k] < 0 and alike and share(grown, masks[k], metric) > threshold:
                    grown, groups[k] = united(grown, masks[k]), len(merged)
        merged.append(grown)
    ends = torch.tensor([0, *map(len, merged)]).cumsum(0)
    flat = [one for some in merged for one in some]
    return torch.tensor(flat, dtype=torch.int64).reshape(-1, 2), ends, torch.tensor(groups, dtype=torch.int64)


def share(a: list[list[int]], b: list[list[int]], metric: str) -> float:
    """The overlap of two masks: IoU, or what both share over the smaller."""
    shared, one, other = pixels_shared(a, b), area(a), area(b)
    if shared == 0:
        return 0.0
    return shared / (min(one, other) if metric == "smaller" else one + other - shared)


def united(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    """Runs of what either mask covers."""
    out: list[list[int]] = []
    for begin, end in sorted(a + b):
        if out and begin <= out[-1][1]:
            out[-1] = [out[-1][0], max(out[-1][1], end)]
        else:
            out.append([begin, end])
    return out
