"""The benchmark suite itself: it does not time what is wrong, says who is absent, stores, notices what is slower."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import conftest, rivals, slower, stored
from htc_fast.profiling.limits import Limits

ROOT = Path(__file__).resolve().parent.parent
LIMITS = Limits(1e10, {"float32": 1e11})
CONFTEST = """
import pathlib
import benchmarks.conftest as suite
from benchmarks.conftest import (compare, device, draw, dtype, limits, pytest_addoption, pytest_configure,
                                 pytest_collection_modifyitems, pytest_report_collectionfinish, pytest_sessionfinish)
from htc_fast.profiling.limits import Limits
suite.RESULTS = pathlib.Path(__file__).parent / "results"
suite.measure = lambda device, dtypes: Limits(1e10, {"float32": 1e11})
"""
BENCH = """
import time
from benchmarks import rivals

def alike(ours, other, who):
    assert ours == other, f"differs from {who}"

def bench_right(compare):
    calls = {"htc_fast": lambda: time.sleep(SECONDS) or 1, "other": lambda: time.sleep(0.004) or 1,
             "nobody": rivals.Absent("nobody not installed"), "stumbles": lambda: 1 / 0}
    compare("a case", calls, alike, gigabytes=0.001, gflop=0.01, backend="sleep")

def bench_wrong(compare):
    compare("a wrong case", {"htc_fast": lambda: 1, "other": lambda: 2}, alike)
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--benchmark-only", "-c", "pyproject.toml"]
    return subprocess.run([*command, str(folder), *options], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with a suite of two cases, run once."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "bench_sleep.py").write_text(BENCH.replace("SECONDS", "0.002"))
    return folder, run(folder, "--device", "cpu")


def test_a_wrong_result_is_not_timed(measured):
    folder, done = measured
    assert done.returncode == 1 and "differs from other" in done.stdout and "1 failed, 1 passed" in done.stdout
    (path,) = folder.glob("results/*/sleep.json")
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == ["a case"]


def test_a_row_says_everything(measured):
    folder, done = measured
    (path,) = folder.glob("results/*/sleep.json")
    result = json.loads(path.read_text())
    (row,) = result["rows"]
    assert row["device"] == path.parent.name == result["machine"]["device"] and row["dtype"] == "float32"
    assert row["backend"] == "sleep" and set(row["milliseconds"]) == {"htc_fast", "other"}
    ours = row["milliseconds"]["htc_fast"]
    assert ours["median"] >= 2 and ours["spread"] >= 0
    assert row["GB/s"] == pytest.approx(1 / ours["median"], rel=0.01)
    assert row["TFLOP/s"] == pytest.approx(0.01 / ours["median"], rel=0.01)
    assert row["share of limit"] == pytest.approx(0.1 / ours["median"], abs=0.01)
    assert row["ratio"]["other"] == pytest.approx(row["milliseconds"]["other"]["median"] / ours["median"], abs=0.01)
    assert row["absent"] == {
        "nobody": "nobody not installed",
        "stumbles": "failed: ZeroDivisionError: division by zero",
    }
    assert "this takes about" in done.stdout and "2 guessed" in done.stdout


def test_comparing_flags_what_became_slower(measured):
    folder, _ = measured
    (path,) = folder.glob("results/*/sleep.json")
    before = path.read_text()
    same = run(folder, "--device", "cpu", "--benchmark-compare", "-k", "right")
    assert same.returncode == 0 and "0 slower" in same.stdout and "1 cases as the last time" in same.stdout
    (folder / "bench_sleep.py").write_text(BENCH.replace("SECONDS", "0.2"))
    worse = run(folder, "--device", "cpu", "--benchmark-compare", "-k", "right")
    assert worse.returncode == 1 and "slower than stored: sleep, a case (float32)" in worse.stdout
    assert path.read_text() == before


def test_every_benchmark_runs():
    done = run(ROOT / "benchmarks", "--tiny", "--device", "cpu", "-q")
    assert done.returncode == 0, done.stdout[-3000:]
    files = len(list((ROOT / "benchmarks").glob("bench_*.py")))
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= files


def test_a_device_that_is_not_here():
    config = SimpleNamespace(getoption=lambda name: "toaster")
    with pytest.raises(pytest.UsageError, match="--device toaster is not here: use cpu"):
        conftest._device(config)


def test_every_operator_and_family_has_its_file():
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert names >= {"roi_align", "pr_roi_pool", "nms", "soft_nms", "paste", "encode", "conv3x3_relu", "mask_flow",
                     "mask_predict", "semantic_merge", "mask_branch", "htc", "cascade_mask", "mask_rcnn"}  # fmt: skip


def rows(median: float, spread: float = 0.1, **more) -> list[dict]:
    return [
        {"case": "x", "dtype": "float32", "milliseconds": {"htc_fast": {"median": median, "spread": spread} | more}}
    ]


@pytest.mark.parametrize(("median", "found"), [(1.0, 0), (1.3, 0), (1.4, 1), (0.1, 0)])
def test_slower_is_more_than_a_quarter_and_the_spread(median, found):
    assert len(slower.than({"rows": rows(1.0)}, rows(median))) == found


def test_graphs_are_compared_where_there_are_some():
    assert slower.than({"rows": rows(1.0, graph=0.1)}, rows(1.0, graph=0.5))
    assert stored.ratios({"us": {"median": 4, "graph": 1}, "a": {"median": 8, "graph": 3}, "b": {"median": 6}}) == {
        "a": 3.0, "b": 1.5}  # fmt: skip


def test_a_slower_machine_is_said(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"limits": {"copy GB/s": 100}, "rows": rows(1.0)}))
    lines = slower.report(tmp_path, [("s", rows(1.0)[0], {"copy GB/s": 50}), ("new", rows(1.0)[0], {})])
    assert "the machine itself reaches 50% of the stored copy GB/s" in "\n".join(lines)
    assert any("nothing stored" in line for line in lines) and lines[-1].endswith("0 slower")


def test_a_file_holds_one_set_of_versions():
    old, new = {"case": "a", "dtype": "float32", "at": 1}, {"case": "b", "dtype": "float32", "at": 2}
    again = old | {"at": 3}
    before = {"machine": {"torch": "1", "date": "monday"}, "rows": [old]}
    assert stored.merged(before, [new], {"torch": "1", "date": "today"}) == [old, new]
    assert stored.merged(before, [again], {"torch": "1", "date": "today"}) == [again]
    assert stored.merged(before, [new], {"torch": "2", "date": "today"}) == [new]


def test_shares_are_of_the_slower_limit():
    found = stored.rates({"median": 100.0}, LIMITS, "float32", gigabytes=0.5, gflop=1)
    assert found == {"GB/s": 5.0, "TFLOP/s": 0.01, "share of limit": 0.5}
    assert "share of limit" not in stored.rates({"median": 1.0}, LIMITS, "float16", None, gflop=1)


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    import torch

    (tmp_path / "file").write_text("")
    lines = stored.save(tmp_path / "file" / "device", [("s", rows(1.0)[0], {})], torch.device("cpu"))
    assert lines[0].startswith("cannot write") and "nothing was stored" in lines[0]


def test_who_is_not_installed_is_absent():
    missing = rivals.needs("no_such_package_at_all")(lambda: 1)
    stumbling = rivals.needs("torch")(lambda: 1 / 0)
    assert missing() == "no_such_package_at_all not installed" and isinstance(missing(), rivals.Absent)
    assert isinstance(stumbling(), rivals.Absent) and "ZeroDivisionError" in stumbling()
