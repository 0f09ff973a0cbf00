"""Kernels found by who launched them, their limits, and what a table says of them."""

import json

import pytest
import torch

from benchmarks import bars, kernels
from benchmarks.inputs import Draw
from benchmarks.kernels import MARK, Call, attributed, least, operators
from benchmarks.tables import predicted, runs
from benchmarks.tables.pages import drawn_from
from htc_fast.profiling.chart import digest
from htc_fast.profiling.limits import Limits

LIMITS = Limits(1e9, {"float32": 1e12})


def event(category, name, ts, dur=1.0, correlation=None):
    return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "args": {"correlation": correlation}}


def calls():
    """Two operators, of which the first launches two kernels and the second one; one kernel is nobody's."""
    trace = [
        event("user_annotation", f"{MARK}0", 10.0, 5.0),
        event("user_annotation", f"{MARK}1", 20.0, 5.0),
        event("gpu_user_annotation", f"{MARK}1", 0.0, 100.0),
        event("cuda_runtime", "cudaLaunchKernel", 11.0, 1.0, 7),
        event("cuda_driver", "cuLaunchKernel", 13.0, 1.0, 8),
        event("cuda_runtime", "cudaLaunchKernel", 24.0, 1.0, 9),
        event("cuda_runtime", "cudaLaunchKernel", 30.0, 1.0, 10),
        event("kernel", "b", 52.0, 3.0, 8),
        event("kernel", "a", 50.0, 1.0, 7),
        event("kernel", "a", 60.0, 4.0, 9),
        event("gpu_memcpy", "copy", 70.0, 2.0, 10),
        {"ph": "i", "name": "no duration"},
    ]
    made = [Call("backbone", "htc_fast::convolution", 2e9, 1e6), Call("FPN", "htc_fast::lateral", 0.0, 3e3)]
    return attributed({"traceEvents": trace}, made)


def test_a_kernel_is_its_launcher_s():
    first, second, rest = calls()
    assert sorted(first.kernels) == [("a", 1.0), ("b", 3.0)] and second.kernels == [("a", 4.0)]
    assert rest.part == "rest" and rest.kernels == [("copy", 2.0)]


def test_limits_are_rooflines_and_shared_by_time():
    rows = operators(calls(), LIMITS, "float32")
    assert [(row["part"], row["calls"], row["us"]) for row in rows] == [
        ("backbone", 1, 4.0),
        ("FPN", 1, 4.0),
        ("rest", 1, 2.0),
    ]
    assert [round(row["limit us"], 6) for row in rows] == [2000.0, 3.0, 0.0]
    shares = least(calls(), LIMITS, "float32")
    assert shares["b"] == pytest.approx(1500.0) and shares["a"] == pytest.approx(500.0 + 3.0)


def test_a_toy_is_measured_on_a_cpu(tmp_path):
    rows = list(kernels.measured(1, Draw(torch.device("cpu"), tiny=True), LIMITS, "float32", tmp_path))
    assert [row["mode"] for row in rows] == ["eager", "optimized"] and rows[1]["replay"]
    assert (tmp_path / "replay_1.json").exists() and json.loads((tmp_path / "operators_1.json").read_text())


def test_tables_of_kernels_and_of_what_was_expected():
    row = {"mode": "optimized", "batch": 1, "dtype": "bfloat16", "ms": 2.5, "ms in a row": 2.0}
    row |= {"operators": operators(calls(), LIMITS, "float32")}
    row |= {"replay": [{"kernel": "void f<4>(int)", "count": 2, "us": 5.0, "limit us": 1.0}]}
    result = {"rows": [row], "limits": {}, "machine": {"device": "nvidia-h200", "date": "2026-01-01"}}
    text = runs.kernels_of(result)
    words = " ".join(text.split())
    assert "| optimized, bf16, batch 1 | 2.50 | 2.00 | 500 | 2.00 | 100% | 2 |" in words
    assert "| backbone: convolution | 1 | 2 | 2.0 | 1 | 4 | 2000 | 50000% |" in words
    assert "| `f` | 2 | 5 | 1 | 20% |" in words
    parts = " ".join(predicted.parts_of({"kernels": result}).split())
    assert "| backbone | 550 | 4 | – |" in parts and "| all | 2000 | 2000 | – |" in parts


def test_the_picture_carries_what_it_shows(tmp_path):
    row = {"mode": "optimized", "batch": 2, "ms in a row": 2.0, "operators": operators(calls(), LIMITS, "float32")}
    assert bars.parts(row) == {"backbone": (2.0, 1000.0), "FPN": (2.0, 1.5)}
    result = {"rows": [row, row | {"batch": 8}], "machine": {"device": "a", "torch": "2", "date": "2026-01-01"}}
    assert drawn_from(bars.draw(result, tmp_path / "kernels.png")) == digest(result)


def test_what_was_tried_is_told_with_what_became_of_it():
    kept = {"what": "a change", "before us": 64.76, "predicted us": "29 – 32", "after us": 33.57, "kept": True}
    machine = {"device": "a GPU", "date": "2026-01-02", "torch": "2.11.0"}
    text = predicted.tried_of({"machine": machine, "rows": [kept, {**kept, "what": "another", "kept": False}]})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        ["a change", "64.76", "29 – 32", "33.57", "yes"],
        ["another", "64.76", "29 – 32", "33.57", "no"],
    ]
