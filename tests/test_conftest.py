"""How many threads a process of the suite has, and what it runs first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import os, pathlib\ndef test_it(tmp_path): pathlib.Path({!r}).write_text(os.environ['OMP_NUM_THREADS'])\n"
ORDERED = """
import pathlib, pytest
{mark}
def test_it():
    with pathlib.Path({said!r}).open("a") as file:
        file.write({name!r})
"""


def run(processes: str, folder: Path) -> None:
    """The tests of a folder with the suite's own settings."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-p", "tests.conftest", "-c", os.devnull]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("processes, wanted", [("0", str(len(os.sched_getaffinity(0)))), ("1", "1")])
def test_one_thread_for_each_of_several_processes(processes, wanted, tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "test_it.py").write_text(PROGRAM.format(str(tmp_path / "said")))
    run(processes, tmp_path)
    assert (tmp_path / "said").read_text() == wanted


@pytest.mark.parametrize("processes, wanted", [("0", "abc"), ("1", "bac")])
def test_files_with_slow_tests_come_first_in_workers(processes, wanted, tmp_path):
    pytest.importorskip("xdist")
    for name in "abc":
        mark = "@pytest.mark.slow" if name == "b" else ""
        (tmp_path / f"test_{name}.py").write_text(ORDERED.format(mark=mark, said=str(tmp_path / "said"), name=name))
    run(processes, tmp_path)
    assert (tmp_path / "said").read_text() == wanted
