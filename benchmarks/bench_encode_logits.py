"""From maps of logits to run lengths, beside torch's resize and pycocotools' encode."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks import rivals
from benchmarks.bench_encode_masks import runs
from benchmarks.cases import as_on_the_cpu, plural, select
from htc_fast import ops
from tests import inputs

# maps, their side, image
# 300 maps of 12 megapixels are half a minute of the rival's.
USUAL = [(100, 160, (1080, 1920)), (300, 108, (3000, 4000)), (3, 256, (1365, 2048))]
QUICK = USUAL[:1]
REST = [(30, 108, (3000, 4000)), (1, 108, (3000, 4000)), (300, 108, (480, 640))]
AT_ONCE = 2e8  # pixels of all maps, beyond which the rival resizes one map after the other, to fit into memory


def maps(count: int, side: int) -> torch.Tensor:
    """[count, side, side]: one object each, with a wavy rim, and -6 to 6 around it."""
    rng = inputs.generator(0)
    centre, size = (
        torch.rand(count, 2, 1, 1, generator=rng) * 2 - 1,
        torch.rand(count, 2, 1, 1, generator=rng) ** 2 + 0.1,
    )
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    x, y = (at - centre[:, 0]) / size[:, 0], (at[:, None] - centre[:, 1]) / size[:, 1]
    waves = torch.rand(count, 1, 1, generator=rng) * 6 + 3
    rim = 1 + 0.2 * torch.sin(torch.atan2(y, x) * waves.round())
    return (8 * (rim - torch.hypot(x, y))).clamp(-6, 6)


def alike(ours, other, who):
    """torch multiplies in another order: a few pixels within rounding of the threshold are on the other side."""
    pixels = moved = 0
    for mine, theirs in zip(ours, other, strict=True):
        pixels += mine["size"][0] * mine["size"][1]
        if mine["counts"] != theirs["counts"]:
            moved += int(np.count_nonzero(coco_mask.decode(mine) != coco_mask.decode(theirs)))
    assert moved <= 1e-6 * pixels + 2, f"{moved} of {pixels} pixels differ from {who}"


@pytest.mark.parametrize(("count", "side", "image"), select(USUAL, QUICK, REST))
def bench_encode_logits(compare, draw, count, side, image):
    count, image = draw.count(count), draw.size(image)
    logits = maps(count, side).to(draw.device)
    encode = lambda logits: ops.encode_logits(logits, image)  # noqa: E731
    at_once = count if count * image[0] * image[1] <= AT_ONCE else 1

    def rival():
        return [one for some in logits.split(at_once) for one in runs(rivals.interpolated(some, image))]

    calls = {"htc_fast": lambda: encode(logits), "interpolate, pycocotools": rival}
    words = f"{plural(count, 'map')} of {side}×{side} at {image[0]}×{image[1]}"
    same = as_on_the_cpu(encode, logits)
    compare(words, calls, alike, op="encode_logits", gigabytes=logits.nbytes / 1e9, verify=same)
