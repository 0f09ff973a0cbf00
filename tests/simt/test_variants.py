"""Named cases and drawn ones again: under AddressSanitizer and UBSan, and with the race check, all shuffled."""

import subprocess
import sys

import emulator
import pytest


@pytest.mark.skipif(emulator.variant() != "plain", reason="started by itself")
@pytest.mark.parametrize("variant", ["asan", "race"])
def test_named_cases(variant):
    environment = emulator.sanitizer_environment() if variant == "asan" else emulator.environment()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "-p",
        "no:cacheprovider",
        str(emulator.HERE),
        "-k",
        "not emulator",
    ]
    result = subprocess.run(
        command, cwd=emulator.ROOT, env={**environment, "HTC_SIMT_VARIANT": variant}, capture_output=True, text=True
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
