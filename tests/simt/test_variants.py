"""The emulated kernels again, shuffled: under AddressSanitizer and UBSan, and with the race check.

Each process runs the named cases that its check can find something in (WATCHED in tests/ops), and drawn ones.
"""

import subprocess
import sys

import pytest

from tests.simt import emulator

# Under the race check one of every kind is enough: it sees every access, whatever the values.
SELECTED = {"asan": "cuda_emulated and not order", "race": "cuda_emulated and (named or scattered or drawn)"}


@pytest.mark.slow
@pytest.mark.skipif(emulator.variant() != "plain", reason="started by itself")
@pytest.mark.skipif(emulator.why_not() is not None, reason=str(emulator.why_not()))
@pytest.mark.parametrize("variant", SELECTED)
def test_watched_cases(variant):
    environment = emulator.sanitizer_environment() if variant == "asan" else emulator.environment()
    options = ["-q", "-x", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", SELECTED[variant]]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/ops"], cwd=emulator.ROOT, capture_output=True, text=True,
        env={**environment, "HTC_SIMT_VARIANT": variant})  # fmt: skip
    assert result.returncode == 0 and " passed" in result.stdout, (result.stdout + result.stderr)[-6000:]
