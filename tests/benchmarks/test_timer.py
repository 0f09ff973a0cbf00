"""How calls are timed; the part for a GPU with a make-believe one, which keeps the time of the host."""

import contextlib
import time

import pytest
import torch

from benchmarks import comparison, timer
from htc_fast.ops._backend import forced_backend
from htc_fast.profiling.limits import Limits

testing = pytest.importorskip("triton.testing")

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, other):
        return (other.at - self.at) * 1e3


class Graph:
    """Replays nothing: launching is all that a call costs here."""

    def replay(self):
        time.sleep(0.002)


@pytest.fixture
def gpu(monkeypatch):
    """What happened on it, in order."""
    happened, mode = [], ["default"]
    put = lambda name, value: monkeypatch.setattr(torch.cuda, name, value)  # noqa: E731
    put("Event", Event)
    put("CUDAGraph", Graph)
    put("current_stream", lambda: "the current one")
    put("synchronize", lambda device=None: happened.append("synchronize"))
    put("graph", lambda graph, stream: contextlib.nullcontext(happened.append(f"capture {stream}")))
    put("get_sync_debug_mode", lambda: mode[-1])
    put("set_sync_debug_mode", mode.append)
    monkeypatch.setattr(testing, "do_bench", lambda call, rep, return_mode: happened.append("flush") or 0.5)
    return happened, mode


def test_a_cpu_is_timed_by_the_clock():
    times = timer.sample(lambda: time.sleep(0.002), CPU, budget=0.02)
    assert 3 <= len(times) <= 10 and all(one >= 0.002 for one in times)
    assert len(timer.sample(lambda: time.sleep(0.002), CPU, budget=0)) == 3
    short = timer.sample(lambda: None, CPU, budget=0.001)
    assert len(short) >= 3 and max(short) < 1e-3


def test_median_and_the_middle_half():
    assert timer.summary([0.001, 0.002, 0.003, 0.004, 0.1]) == {"median": 3.0, "spread": 2.0}
    assert timer.summary([0.002]) == {"median": 2.0, "spread": 0.0}


def test_a_small_call_on_a_gpu_has_a_graph_and_a_cold_cache(gpu):
    happened, mode = gpu
    times = timer.sample(lambda: None, CUDA, budget=0.01)
    assert len(times) >= 5 and happened.count("synchronize") >= 2
    found = timer.on_gpu(lambda: None, 1e-4)
    assert set(found) == {"cold L2", "graph"} and found["cold L2"] == 0.5 and "flush" in happened
    # The stream of the forward is captured, on which its gradient runs.
    assert "capture the current one" in happened
    # Of the 2 ms of a replay, its share; a busy machine sleeps longer.
    assert 0.9 * 2 / timer.INSIDE < found["graph"] < 1.0
    assert mode == ["default", "error", "default"]


def test_a_call_that_waits_or_is_large_has_no_graph(gpu):
    happened, mode = gpu

    def waits():
        if mode[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    assert set(timer.on_gpu(waits, 1e-4)) == {"cold L2"} and mode[-1] == "default"
    assert set(timer.on_gpu(lambda: None, 0.01)) == {"cold L2", "graph"}
    captures = [one for one in happened if "capture" in one]
    assert set(timer.on_gpu(lambda: None, 1e-4, waits=True)) == {"cold L2"}
    assert timer.on_gpu(lambda: None, 1.0) == {}
    assert len(captures) == 1 and captures == [one for one in happened if "capture" in one]


def test_a_call_that_fails_is_not_taken_for_one_that_waits(gpu):
    def fails():
        raise RuntimeError("out of shared memory")

    with pytest.raises(RuntimeError, match="shared memory"):
        timer.on_gpu(fails, 1e-4)


def test_what_cannot_be_captured_has_no_graph(gpu, monkeypatch):
    def fails(graph, stream):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    assert "graph" not in timer.on_gpu(lambda: None, 1e-4)


class Benchmark:
    """What pytest-benchmark gives a test."""

    stats = True

    def pedantic(self, call, rounds, iterations):
        call()


def test_a_row_of_a_gpu_has_every_backend(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5_000_000)
    monkeypatch.setattr(comparison, "device_name", lambda device: "nvidia-none")
    monkeypatch.setattr(comparison, "backend_name", lambda op, device: "cuda")
    monkeypatch.setattr(comparison, "other_backends", lambda op, device: ["triton"])
    used, checked = set(), []
    calls = {"htc_fast": lambda: used.add(forced_backend()) or 1, "another": lambda: 1}
    compare = comparison.Comparison(Benchmark(), CUDA, Limits(1e10, {}), 0.01)
    row = compare("a case", calls, lambda *found: checked.append(found), op="refine", gigabytes=1e-9)
    assert used == {None, "triton"} and checked == [(1, 1, "another"), (1, 1, "htc_fast, triton")]
    assert set(row["milliseconds"]) == {"htc_fast", "another", "htc_fast, triton"}
    assert all(set(one) == {"median", "spread", "cold L2", "graph"} for one in row["milliseconds"].values())
    assert row["peak MB"] == 5 and row["backend"] == "cuda" and row["device"] == "nvidia-none"
