"""GPU tests: skipped where there is none. Every fresh tensor of a test starts as NaN."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "simt"))  # for roi_cases


def pytest_collection_modifyitems(items):
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
