"""On a GPU every fresh tensor of a test starts as NaN."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Memory that the allocator hands out again is full of NaN, so that an element nobody wrote shows."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        sizes = 1 << 8, 1 << 14, 1 << 18, 1 << 22, 1 << 26
        blocks = [torch.full((size,), float("nan"), device="cuda") for size in sizes]
        del blocks
    yield
