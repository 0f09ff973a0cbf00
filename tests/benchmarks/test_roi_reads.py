"""The count of what RoIAlign's CUDA kernel reads: the kernel's own numbers, the pixels that matter, the limits."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import roi_reads
from htc_fast import ops
from tests.inputs import SCALES, proposals

CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
KERNEL = (CUDA / "roi_walk.cuh").read_text() + (CUDA / "roi_align.cu").read_text()


def test_the_kernel_s_numbers_are_those_counted_with():
    numbers = {name: int(value) for name, value in re.findall(r"constexpr int k(\w+) = (\d+);", KERNEL)}
    assert numbers["Threads"] == 32 * roi_reads.GROUPS and numbers["WantedLanes"] == 32 * roi_reads.WANTED
    assert numbers["InFlight"] == roi_reads.IN_FLIGHT and numbers["Helpers"] == roi_reads.HELPERS
    assert "p.fewest > 1 ? 64.0f : 256.0f" in KERNEL


def test_different_pixels_are_those_with_a_gradient():
    sizes = [[-(-side * int(1024 * scale) // 1024) for side in roi_reads.IMAGE] for scale in SCALES]
    maps = [torch.randn(1, 1, *size, requires_grad=True) for size in sizes]
    for roi in proposals(1000, image=roi_reads.IMAGE)[::100]:
        out = ops.multi_level_roi_align(maps, roi[None], 7, SCALES)
        grads = torch.autograd.grad(out, maps, torch.ones_like(out))
        ((rows, columns),) = roi_reads.lines(roi[1:].tolist(), 7, False)
        different = len(set().union(*rows)) * len(set().union(*columns))
        assert different == sum(int((grad != 0).sum()) for grad in grads)


@pytest.mark.parametrize("count, out, step", [(1000, 7, 20), (100, 14, 5)])
@pytest.mark.parametrize("semantic", [False, True])
def test_pixels_come_from_l2_once_but_for_a_seventh(count, out, step, semantic):
    found = roi_reads.reads(count, out, semantic, step)
    assert found.different <= found.missed <= 1.17 * found.different
    assert found.missed < found.all <= 2.6 * found.different
    assert found.longest <= 300
