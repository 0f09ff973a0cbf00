"""What every benchmark shares: the machine's limits, rivals beside each other, results as JSON and as a table.

A benchmark is a test with the fixture `compare`: it is given a case, everyone who can do it, and a check. Everyone's
result is checked before it is timed; who is not installed is reported as absent. Results of a session are merged into
`results/<device>/<suite>.json`, from which `scripts/bench_tables.py` makes the README's tables.
"""

import json
import statistics
import time
from pathlib import Path

import pytest
import torch

from benchmarks import slower
from htc_fast.profiling.limits import device_name, machine, measure

RESULTS = Path(__file__).resolve().parent / "results"


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all sizes (about an hour on two cores) instead of the usual")
    parser.addoption("--no-store", action="store_true", help="leave benchmarks/results as it is")


def pytest_configure(config):
    config.stash[ROWS] = []


def pytest_report_header(config):
    return "on two cores this takes about an hour" if config.getoption("--full") else "on two cores: under ten minutes"


ROWS = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def limits() -> dict[str, float]:
    """GB/s of a copy (read and written), GFLOP/s of a product of matrices; the best of several, this minute."""
    return measure(torch.device("cpu")).as_dict()


def _seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.fixture
def compare(benchmark, limits, request):
    """compare(suite, case, calls, check, gigabytes=None, gflop=None, dtype="float32", rounds=None, backend="cpp")

    calls    who -> callable, or None where that one is not installed; the first is ours and goes to pytest-benchmark
    check    result of ours, result of another, who -> None, or an AssertionError
    backend  of ours: "cpp", "oneDNN" for what goes through torch
    """

    def run(suite, case, calls, check=None, gigabytes=None, gflop=None, dtype="float32", rounds=None, backend="cpp"):
        (ours, call), *rivals = calls.items()
        result = call()
        absent = [who for who, rival in rivals if rival is None]
        row = {"case": case, "dtype": dtype, "backend": backend, "absent": absent}
        for who, rival in rivals:
            if rival is not None and check is not None:
                check(result, rival(), who)
        benchmark.group = suite
        benchmark.extra_info.update(case=case)
        first = _seconds(call)
        rounds = rounds or max(3, min(50, int(1.0 / max(first, 1e-6))))
        benchmark.pedantic(call, rounds=rounds, iterations=1 if first > 2e-4 else 20, warmup_rounds=2)
        times = sorted(benchmark.stats.stats.data) if benchmark.stats else [first]
        row["milliseconds"] = {ours: _summary(times)}
        for who, rival in rivals:
            if rival is not None:
                row["milliseconds"][who] = _summary(_time(rival))
        median = statistics.median(times)
        if gigabytes is not None:
            row["GB/s"] = round(gigabytes / median, 2)
            row["share of copy"] = round(gigabytes / median / limits["copy GB/s"], 3)
        if gflop is not None:
            row["GFLOP/s"] = round(gflop / median, 1)
            product = limits.get(f"{dtype} GFLOP/s")  # None where the processor lacks the type
            row["share of product"] = product and round(gflop / median / product, 3)
        row["ratio"] = {
            who: round(entry["median"] / row["milliseconds"][ours]["median"], 2)
            for who, entry in row["milliseconds"].items()
            if who != ours
        }
        request.config.stash[ROWS].append((suite, row, limits))
        return row

    return run


def _time(call, budget: float = 1.0) -> list[float]:
    """Seconds of each of at least three rounds, more if they fit into the budget."""
    first = _seconds(call)
    repeat = 1 if first > 2e-4 else 20
    times = []
    for _ in range(max(3, min(50, int(budget / max(first, 1e-6))))):
        times.append(_seconds(lambda: [call() for _ in range(repeat)]) / repeat)
    return sorted(times)


def _summary(times: list[float]) -> dict[str, float]:
    """Median and the span of the middle half, in milliseconds."""
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {"median": round(statistics.median(times) * 1e3, 4), "spread": round((quarters[2] - quarters[0]) * 1e3, 4)}


def pytest_sessionfinish(session):
    """Store the rows; with --benchmark-compare only compare them, and fail where something became slower."""
    rows, compares = session.config.stash[ROWS], session.config.getoption("benchmark_compare", None) is not None
    if not rows or (session.config.getoption("--no-store") and not compares):
        return
    folder = RESULTS / device_name()
    for suite in sorted({suite for suite, _, _ in rows}):
        own = [(row, limits) for name, row, limits in rows if name == suite]
        path = folder / f"{suite}.json"
        before = json.loads(path.read_text()) if path.exists() else {"rows": []}
        if compares and not before["rows"]:
            print(f"\nnothing stored to compare with: benchmarks/results/{folder.name}/{suite}.json", end="")
        for sentence in slower.than(before, [row for row, _ in own]):
            print(f"\nslower than stored: {suite} {sentence}", end="")
            session.exitstatus = 1 if compares else session.exitstatus
        if not compares:
            folder.mkdir(parents=True, exist_ok=True)
            merged = {(row["case"], row["dtype"]): row for row in [*before["rows"], *(row for row, _ in own)]}
            stored = {"machine": machine(), "limits": own[-1][1], "rows": list(merged.values())}
            path.write_text(json.dumps(stored, indent=1) + "\n")
    if not compares:
        print(f"\nresults in benchmarks/results/{folder.name}: `make bench-tables` puts them into README.md", end="")
