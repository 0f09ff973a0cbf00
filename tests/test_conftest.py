"""How many threads a process of the suite has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import os, pathlib\ndef test_it(tmp_path): pathlib.Path({!r}).write_text(os.environ['OMP_NUM_THREADS'])\n"


@pytest.mark.parametrize("processes, wanted", [("0", str(len(os.sched_getaffinity(0)))), ("1", "1")])
def test_one_thread_for_each_of_several_processes(processes, wanted, tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "test_it.py").write_text(PROGRAM.format(str(tmp_path / "said")))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-p", "tests.conftest", "-c", os.devnull]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "said").read_text() == wanted
