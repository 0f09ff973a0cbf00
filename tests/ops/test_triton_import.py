"""Importing the operators needs no Triton and starts none; without it, or without a GPU, one sentence says so."""

import subprocess
import sys

import pytest

WITHOUT_TRITON = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
if sys.argv[1] == "absent":
    sys.meta_path.insert(0, Absent())
import torch
from htc_fast import ops
assert not any(name.startswith("htc_fast.ops.triton.roi") for name in sys.modules)
with ops.use_backend("triton"):
    try:
        ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("state, sentence", [("absent", "has no 'triton' backend"), ("there", "needs cuda tensors")])
def test_importing_needs_no_triton(state, sentence):
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "HTC_FAST_BACKEND": ""}
    command = [sys.executable, "-c", WITHOUT_TRITON, state]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and sentence in result.stdout, result.stdout + result.stderr
