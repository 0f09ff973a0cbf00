"""COCO's run lengths in plain Python: each count minus the one two before it, five bits a letter, lowest first."""

from collections.abc import Sequence

import torch
from torch import Tensor


def read_runs(texts: Sequence[bytes], sizes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """texts K strings, sizes K of (height, width) -> runs [T, 2], offsets [K + 1], faults [K]: see csrc/masks.h."""
    found, offsets, faults = [], [0], []
    for text, (height, width) in zip(texts, sizes, strict=True):
        runs, fault = _runs(text, height * width)
        found += [] if fault else runs
        offsets.append(len(found))
        faults.append(fault)
    return (
        torch.tensor(found, dtype=torch.int64).reshape(-1, 2),
        torch.tensor(offsets),
        torch.tensor(faults, dtype=torch.uint8),
    )


def _runs(text: bytes, pixels: int) -> tuple[list[list[int]], int]:
    counts: list[int] = []
    value = place = total = 0
    for letter in text:
        digit = letter - 48
        if not 0 <= digit < 64 or place == 60:
            return [], 1
        value |= (digit & 31) << place
        place += 5
        if not digit & 32:
            value -= 1 << place if digit & 16 else 0
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            if counts[-1] < 0:
                return [], 2
            total += counts[-1]
            if total > pixels:
                return [], 3
            value = place = 0
    if place:
        return [], 1
    runs: list[list[int]] = []
    at = 0
    for index, count in enumerate(counts):
        if index % 2 and count:
            if runs and runs[-1][1] == at:
                runs[-1][1] = at + count
            else:
                runs.append([at, at + count])
        at += count
    return runs, 0 if at == pixels else 3


def write_runs(runs: Tensor, offsets: Tensor, sizes: Tensor) -> list[bytes]:
    """runs [T, 2], offsets [K + 1], sizes [K, 2] -> K strings."""
    from pycocotools import mask as coco_mask  # here, not above: the operators need torch alone

    strings = []
    for k, (height, width) in enumerate(sizes.tolist()):
        counts, at = [], 0
        for begin, end in runs[offsets[k] : offsets[k + 1]].tolist():
            counts += [begin - at, end - begin]
            at = end
        if at < height * width or not counts:
            counts.append(height * width - at)
        strings.append(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])
    return strings
