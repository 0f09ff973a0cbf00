"""Timing on a GPU: replays of a CUDA graph, single calls, and results as scripts/bench_tables.py reads them.

`device` is the median of replays of a graph that holds the call many times, `call` that of single calls from Python.
Who waits for the device cannot be captured and has no `device` time; that is found out before capture is tried, since
a capture that fails leaves torch's random numbers and allocator in a state of their own.
Dry, everything runs on the CPU: a rehearsal on a machine without a GPU, whose numbers mean nothing.
"""

import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from htc_fast.profiling.limits import machine

RESULTS = Path(__file__).resolve().parent / "results"


def events(run: Callable, repeats: int) -> list[float]:
    """Microseconds of each of the repeats on the current stream."""
    if not torch.cuda.is_available():
        marks = [time.perf_counter()]
        for _ in range(repeats):
            run()
            marks.append(time.perf_counter())
        return [(end - begin) * 1e6 for begin, end in pairwise(marks)]
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in pairs]


def waits(run: Callable) -> bool:
    """Whether a call waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def replayed(run: Callable, inside: int) -> float | None:
    """Microseconds of a call in a graph of `inside` calls; None if it waits. Needs a stream of its own as current."""
    if not torch.cuda.is_available() or waits(run):
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(inside):
            run()
    graph.replay()
    return statistics.median(events(graph.replay, 20)) / inside


def measure(run: Callable, repeats: int = 50, inside: int = 20) -> dict[str, float | str | None]:
    """Medians in microseconds, and the span of the middle half of the single calls; why capture failed, if it did."""
    if not torch.cuda.is_available():
        repeats = 3
    calls = events(run, 3)
    if statistics.median(calls) > 2e4:
        repeats, inside = 10, 2
    calls = events(run, repeats)
    quarters = statistics.quantiles(calls, n=4)
    found = {"call": round(statistics.median(calls), 2), "spread": round(quarters[2] - quarters[0], 2), "device": None}
    try:
        device_time = replayed(run, inside)
        found["device"] = device_time and round(device_time, 2)
    except RuntimeError as error:
        found["capture"] = str(error).splitlines()[0][:200]
        torch.cuda.synchronize()
    return found


def copy_rate() -> float:
    """Bytes per microsecond, read and written."""
    source = torch.empty(1 << (28 if torch.cuda.is_available() else 20), device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(events(lambda: target.copy_(source), 20))


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Table:
    """Rows by suite and case; every row holds everyone who was timed on it."""

    def __init__(self) -> None:
        self.rate = copy_rate()
        self.suites: dict[str, dict[tuple[str, str], dict]] = {}
        self.failed = 0

    def add(self, suite: str, case: str, dtype: str, who: str, run: Callable, moved: float | None = None) -> None:
        """Time one of them; `moved` bytes at the rate of a copy are the limit. A failure is a result, too."""
        row = self.suites.setdefault(suite, {}).setdefault((case, dtype), {"case": case, "dtype": dtype, "times": {}})
        if moved:
            row["limit"] = round(moved / self.rate, 2)
        try:
            row["times"][who] = measure(run)
        except Exception as error:
            row["times"][who] = {"error": f"{type(error).__name__}: {error}"[:300]}
            self.failed += 1
        print(f"{suite}: {case}, {dtype}, {who}: {row['times'][who]}", flush=True)

    def reports(self) -> dict[str, dict]:
        about = {"machine": machine(), "limits": {"copy GB/s": round(self.rate / 1e3, 1)}, "unit": "microseconds"}
        return {suite: {**about, "rows": list(rows.values())} for suite, rows in self.suites.items()}

    def store(self, folder: Path) -> None:
        """<folder>/<device>/<suite>.json; on benchmarks/results that is what fills the README's tables."""
        for suite, report in self.reports().items():
            path = folder / report["machine"]["device"] / f"{suite}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1) + "\n")
