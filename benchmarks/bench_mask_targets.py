"""Goals of masks out of index maps beside RoIAlign of bitmaps, which is how they were made before."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.cases import as_on_the_cpu, plural, select
from htc_fast import ops
from htc_fast.criterion.losses import mask_targets

USUAL = [(128, (800, 1344)), (128, (1024, 1024)), (16, (256, 416))]
QUICK = USUAL[:1]
REST = [(512, (1024, 1024)), (1000, (800, 1344))]


def alike(ours, other, who):
    assert (ours != other).float().mean() < 1e-3, f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), select(USUAL, QUICK, REST))
def bench_goals(compare, draw, count, image):
    count, (height, width) = draw.count(count), draw.size(image)
    boxes = draw.proposals(count)[:, 1:] * draw.normal(1).new_tensor([width / 1344, height / 800] * 2)
    # As many objects as RoIs, every one a disc in its box; two layers, where the later one covers the earlier.
    layers = torch.zeros(1, 2, height, width, dtype=torch.int16)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 < 0.2
        layers[0, k % 2][inside] = k + 1
    bitmaps = torch.stack([layers[0, k % 2] == k + 1 for k in range(count)])[None].byte().to(boxes.device)
    rois, order = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1), torch.arange(count, device=boxes.device)
    goals = lambda layers, rois, layer, number: ops.mask_targets(layers, rois, layer, number)  # noqa: E731
    given = layers.to(boxes.device), rois, order % 2, order + 1
    ours = lambda: goals(*given)  # noqa: E731
    calls = {
        "htc_fast": ours,
        "RoIAlign of bitmaps": lambda: mask_targets(bitmaps, boxes, order),
        "plain PyTorch": rivals.plain(ours),
    }
    words = f"{plural(count, 'RoI')} at {height}×{width}"
    compare(words, calls, alike, op="mask_targets", verify=as_on_the_cpu(goals, *given))
