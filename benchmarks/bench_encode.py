"""Whole masks to run lengths, beside pycocotools' encode; and a plain copy of the same bytes."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks.cases import select
from benchmarks.whole_masks import QUICK, REST, USUAL, masks, words
from htc_fast import ops

COPY = "a plain copy"


def alike(ours, other, who):
    if who != COPY:
        assert [one["counts"] for one in ours] == [one["counts"] for one in other], f"differs from {who}"


@pytest.mark.parametrize(("count", "image", "kind"), select(USUAL, QUICK, REST))
def bench_encode(compare, draw, device, count, image, kind):
    made = masks(*((2, (96, 130), kind) if draw.tiny else (count, image, kind))).to(device)
    # In the order of memory that pycocotools wants: turning them is not timed.
    columns = np.asfortranarray(made.cpu().permute(1, 2, 0).byte().numpy())
    target = torch.empty_like(made)
    calls = {
        "htc_fast": lambda: ops.encode(made),
        "pycocotools": lambda: coco_mask.encode(columns),
        COPY: lambda: target.copy_(made),
    }
    compare(words(count, image, kind), calls, alike, op="encode", gigabytes=made.nbytes / 1e9, dtype=torch.bool)
