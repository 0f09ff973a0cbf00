"""torchvision's Mask R-CNN as it comes and after `accelerate`: one model's weights, detections compared first."""

import pytest
import torch

from benchmarks import networks
from benchmarks.cases import select

VERSIONS, SIZES = (networks.V1, networks.V2), ((480, 640), (800, 1333))
USUAL = [(version, size) for version in VERSIONS for size in SIZES]


def alike(ours, theirs, who):
    """Scores in their order; of random weights some are nearly equal, and boxes change places."""
    for found, wanted in zip(ours, theirs, strict=True):
        assert len(found["boxes"]) == len(wanted["boxes"]) > 0, f"other counts than {who}"
        torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0.01, atol=1e-3)
        assert abs(found["masks"].mean() - wanted["masks"].mean()) < 0.02, f"other masks than {who}"


@pytest.mark.parametrize(("version", "size"), select(USUAL, USUAL[:1]))
def bench_torchvision(compare, draw, version, size):
    before, after = networks.torchvision_before_and_after(draw, version, draw.size(size))
    calls = {"htc_fast": after, "torchvision": before}
    case = f"{version}, {size[0]}×{size[1]}"
    compare(case, calls, alike, backend="torchvision over htc_fast", pictures=1)
