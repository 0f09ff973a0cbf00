"""GPU tests: skipped where there is none. Every fresh tensor of a test starts as NaN.

HTC_FAST_SHARD=1/4 runs the second quarter of them: what takes long is compiling Triton kernels, one core each.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "simt"))  # for roi_cases


def pytest_collection_modifyitems(config, items):
    shard, shards = map(int, os.environ.get("HTC_FAST_SHARD", "0/1").split("/"))
    config.hook.pytest_deselected(items=[item for at, item in enumerate(items) if at % shards != shard])
    items[:] = items[shard::shards]
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in Path(item.fspath).parts:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Memory that the allocator hands out again is full of NaN, so that an element nobody wrote shows."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        blocks = [
            torch.full((size,), float("nan"), device="cuda") for size in (1 << 8, 1 << 14, 1 << 18, 1 << 22, 1 << 26)
        ]
        del blocks
    yield
