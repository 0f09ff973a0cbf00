"""The speed of training on a processor: processes that take turns, rows, and their table."""

import os
import subprocess
import sys

import pytest

from benchmarks import training_cpu
from benchmarks.tables.training_cpu import training_cpu_of
from benchmarks.training_steps import prepared
from htc_fast.cores import usable_cores
from htc_fast.errors import UserError

ROW = {"class": "avx2", "work": "sample", "mode": "eager", "dtype": "float32", "fastest ms": 90.0, "slowest ms": 400.0}
PARTS = {"data": 1.0, "forward": 30.0, "backward": 60.0, "optimizer": 9.0}


def test_a_step_gives_its_parts(tmp_path):
    step, batch = prepared("sample", "eager", "float32", tiny=True, folder=str(tmp_path))
    found = step()
    assert set(PARTS) | {"backbone"} <= found.keys() and batch == 2
    assert min(found.values()) >= 0 and sum(found.values()) > 0


def test_processes_of_both_revisions_take_a_step_in_turn(monkeypatch, tmp_path):
    order = []

    class Stepper:
        def __init__(self, words, environment, tree):
            self.tree, self.batch, self.slow = tree, 2, iter([0.2, 0.4, 0.3] * 2)
            assert words == ["sample", "eager", "float32", "tiny"]
            assert int(environment["OMP_NUM_THREADS"]) == usable_cores()  # else each would leave the other a core

        def __enter__(self):
            return self

        def __exit__(self, *_):
            order.append("end")

        def step(self):
            order.append("before" if self.tree == tmp_path else "now")
            return {"forward": next(self.slow) if self.tree == tmp_path else 0.1}

    monkeypatch.setattr(training_cpu, "Stepper", Stepper)
    monkeypatch.setattr(training_cpu, "asked_class", lambda environment: ["avx2", "False"])
    options = training_cpu.argparse.Namespace(before=tmp_path, compiled=False, rounds=2, steps=3, tiny=True)
    before, now = training_cpu.measured("avx2", "sample", options)
    assert order == [*["before", "now"] * 3, "end", "end"] * 2
    assert (before["ms"], before["fastest ms"], before["slowest ms"]) == (300.0, 200.0, 400.0)
    assert before["parts ms"] == {"forward": 300.0} and now["images/s"] == 20.0
    assert (before["when"], now["when"], now["dtype"], now["class"]) == ("before", "now", "float32", "avx2")


@pytest.mark.slow
def test_a_process_steps_when_it_is_told_to():
    with training_cpu.Stepper(["sample", "eager", "float32", "tiny"], dict(os.environ), training_cpu.HERE) as process:
        first, second = process.step(), process.step()
    assert process.batch == 2 and first.keys() == second.keys() and process.process.returncode == 0
    with pytest.raises(UserError, match="ended with status"):
        training_cpu.Stepper(["nothing", "eager", "float32"], dict(os.environ), training_cpu.HERE)


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
