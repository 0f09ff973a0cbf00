"""The speed of training on a processor: processes that take turns, rows, and their table."""

import json
import subprocess
import sys

import pytest

from benchmarks import training_cpu
from benchmarks.tables.training_cpu import training_cpu_of
from benchmarks.training_steps import measured

ROW = {"class": "avx2", "work": "sample", "mode": "eager", "dtype": "float32", "fastest ms": 90.0, "slowest ms": 400.0}
PARTS = {"data": 1.0, "forward": 30.0, "backward": 60.0, "optimizer": 9.0}


def test_a_process_gives_its_steps_and_their_parts():
    found = measured("sample", "eager", "float32", steps=2, tiny=True)
    assert len(found["seconds"]) == 2 and min(found["seconds"]) > 0 and found["batch"] == 2
    assert set(PARTS) | {"backbone"} <= found["parts ms"].keys()
    assert sum(found["parts ms"].values()) == pytest.approx(min(found["seconds"]) * 1e3, rel=0.01)


def test_processes_of_both_revisions_take_turns(monkeypatch, tmp_path):
    order = []

    def asked(command, environment, tree):
        if command[1] == "-c":
            return "avx2 False\n"
        order.append(str(tree))
        seconds = [0.4, 0.2] if tree == tmp_path else [0.1, 0.1]
        return json.dumps({"seconds": seconds, "batch": 2, "dtype": command[4], "parts ms": PARTS})

    monkeypatch.setattr(training_cpu, "asked", asked)
    options = training_cpu.argparse.Namespace(before=tmp_path, compiled=False, rounds=2, steps=2, tiny=True)
    before, now = training_cpu.measured("avx2", "sample", options)
    assert order == [str(tmp_path), str(training_cpu.HERE)] * 2
    assert before["images/s"] == pytest.approx(2 / 0.3, rel=1e-3) and now["images/s"] == 20.0
    assert (before["when"], now["when"], now["dtype"], now["class"]) == ("before", "now", "float32", "avx2")


def test_the_table_says_how_much_faster_it_is():
    rows = [
        {**ROW, "when": when, "ms": ms, "images/s": 2e3 / ms, "parts ms": PARTS}
        for when, ms in (("before", 300.0), ("now", 100.0))
    ]
    machine = {"device": "toy", "date": "2026-01-01"}
    text = training_cpu_of({"machine": machine, "revisions": {"before": "abc1234"}, "rows": rows})
    assert "3.00×" in text and "before: abc1234. toy" in text and text.count("the default run, avx2, fp32") == 2


def test_a_folder_without_the_package_is_refused(tmp_path):
    command = [sys.executable, "-m", "benchmarks.training_cpu", "--tiny", "--before", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "is no checkout of htc_fast" in done.stderr
