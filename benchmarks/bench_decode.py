"""Run lengths to whole masks, beside pycocotools' decode; and a plain copy of the same bytes."""

import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks.cases import select
from benchmarks.whole_masks import QUICK, REST, USUAL, masks, words
from htc_fast import ops

COPY = "a plain copy"


def alike(ours, other, who):
    other = other if who == COPY else torch.from_numpy(other).permute(2, 0, 1).bool()
    assert torch.equal(ours.cpu(), other.cpu()), f"differs from {who}"


@pytest.mark.parametrize(("count", "image", "kind"), select(USUAL, QUICK, REST))
def bench_decode(compare, draw, device, count, image, kind):
    made = masks(*((2, (96, 130), kind) if draw.tiny else (count, image, kind))).to(device)
    rles = ops.encode(made)
    calls = {
        "htc_fast": lambda: ops.decode(rles, device),
        "pycocotools": lambda: coco_mask.decode(rles),
        COPY: made.clone,
    }
    compare(words(count, image, kind), calls, alike, op="decode", gigabytes=made.nbytes / 1e9, dtype=torch.bool)
