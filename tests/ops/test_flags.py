"""Torch's flags of a whole process: set for a block, and set back however it ends."""

import re
from pathlib import Path

import pytest
import torch

from tests.conftest import torch_flags
from tests.ops.backends import convolutions_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_set_back_after_a_failure(precision):
    before = torch_flags()
    with pytest.raises(ZeroDivisionError), convolutions_in(precision):
        assert torch.backends.cudnn.conv.fp32_precision == precision
        raise ZeroDivisionError
    assert torch_flags() == before
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # raises where the flag of convolutions stayed
        assert not torch.backends.cudnn.allow_tf32
    assert torch_flags() == before


def test_no_test_patches_a_precision():
    """pytest's monkeypatch deletes the flag at the end, which fails and leaves it set."""
    tests = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(tests) > 100
    assert not [path.name for path in tests if re.search(r"setattr\([^)\n]*fp32_precision", path.read_text())]
