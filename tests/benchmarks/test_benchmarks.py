"""The benchmark suite itself: it does not time what is wrong, says who is absent, stores, notices what is slower."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch

from benchmarks import cases, conftest, rivals, slower, stored
from benchmarks.inputs import Draw
from benchmarks.tables.pages import ACCELERATED, CONVOLUTIONS, DETECTORS, OPERATORS, RUN_LENGTHS
from htc_fast import ops
from htc_fast.ops import _backend
from htc_fast.profiling.limits import Limits

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(1e10, {"float32": 1e11})
CONFTEST = """
from benchmarks.conftest import (compare, device, draw, dtype, limits, pytest_addoption, pytest_configure,
                                 pytest_collection_modifyitems, pytest_report_collectionfinish, pytest_sessionfinish)
"""
BENCH = """
import time
import pytest
from benchmarks import rivals
from benchmarks.cases import select

def alike(ours, other, who):
    assert ours == other, f"differs from {who}"

def bench_right(compare):
    calls = {"htc_fast": lambda: time.sleep(SECONDS) or 1, "other": lambda: time.sleep(0.004) or 1,
             "nobody": rivals.Absent("nobody not installed"), "stumbles": lambda: 1 / 0}
    compare("a case", calls, alike, gigabytes=0.001, gflop=0.01, backend="sleep", pictures=3)

def bench_wrong(compare):
    compare("a wrong case", {"htc_fast": lambda: 1, "other": lambda: 2}, alike)

def bench_wrong_alone(compare):
    compare("ours is wrong", {"htc_fast": lambda: 1}, alike, verify=lambda result: alike(result, 2, "the definition"))

@pytest.mark.parametrize("size", select([(1,), (2,)], [(2,), (3,)], [(4,)]))
def bench_selected(compare, size):
    compare(f"size {size}", {"htc_fast": lambda: size}, alike)
"""


def run(folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and what is printed, in this process: starting another takes longer than most of what is tested."""
    quiet = "-p", "no:cacheprovider", "--import-mode=importlib", "--capture=sys", "-c", str(ROOT / "pyproject.toml")
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):  # beside other workers nothing is timed
            patch.delenv(name, raising=False)
        status = pytest.main([*quiet, str(folder), "--benchmark-only", "--device", "cpu", *options])
    return int(status), said.getvalue()


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A folder with a suite of its own, whose results stay there."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "bench_sleep.py").write_text(BENCH.replace("SECONDS", "0.002"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "RESULTS", folder / "results")
        patch.setattr(conftest, "measure", lambda device, dtypes: LIMITS)
        yield folder


@pytest.fixture(scope="module")
def measured(suite):
    """Run once: the folder, exit status, what was printed."""
    return suite, *run(suite, "-k", "right or wrong")


def test_a_wrong_result_is_not_timed(measured):
    folder, status, said = measured
    assert status == 1 and "2 failed, 1 passed" in said
    assert "differs from other" in said and "differs from the definition" in said
    (path,) = folder.glob("results/*/sleep.json")
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == ["a case"]


def test_a_row_says_everything(measured):
    folder, _, said = measured
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
    assert row["images/s"] == pytest.approx(3000 / ours["median"], rel=0.01)
    assert row["ratio"]["other"] == pytest.approx(row["milliseconds"]["other"]["median"] / ours["median"], abs=0.01)
    stumbled = "failed: ZeroDivisionError: division by zero"
    assert row["absent"] == {"nobody": "nobody not installed", "stumbles": stumbled}
    assert "this takes about" in said and "3 guessed" in said


@pytest.mark.filterwarnings("ignore:Can't compare")  # pytest-benchmark has no files of its own
def test_comparing_flags_what_became_slower(measured):
    folder, *_ = measured
    (path,) = folder.glob("results/*/sleep.json")
    before = path.read_text()
    status, said = run(folder, "--benchmark-compare", "-k", "right")
    assert status == 0 and "0 slower" in said and "1 cases as the last time" in said
    assert path.read_text() == before
    result = json.loads(before)
    result["rows"][0]["milliseconds"]["htc_fast"] = {"median": 0.1, "spread": 0.1}
    path.write_text(json.dumps(result))
    status, said = run(folder, "--benchmark-compare", "-k", "right")
    assert status == 1 and "slower than stored: sleep, a case (float32)" in said


SELECTIONS = {(): "12", ("--quick",): "23", ("--full",): "1234", ("--tiny",): "1", ("--tiny", "--quick"): "2"}


@pytest.mark.parametrize("options", SELECTIONS, ids=" ".join)
def test_selections_are_of_the_same_cases(suite, options):
    _, said = run(suite, "--collect-only", "-q", "-k", "selected", *options)
    assert [line.split("[")[1][0] for line in said.splitlines() if "[" in line] == list(SELECTIONS[options])


def test_what_only_full_runs_is_marked_so(suite, monkeypatch):
    monkeypatch.setattr(stored, "RESULTS", suite / "full")
    assert run(suite, "--full", "-k", "selected")[0] == 0
    (path,) = suite.glob("full/*/sleep.json")
    full = {row["case"]: row["full"] for row in json.loads(path.read_text())["rows"]}
    # What a GPU measures in eight minutes is shown: it is not for --full alone.
    assert full == {"size 1": False, "size 2": False, "size 3": False, "size 4": True}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "functions"), [((), 25), (("--quick",), 21)], ids=["usual", "one GPU's"])
def test_every_benchmark_runs(options, functions):
    status, said = run(ROOT / "benchmarks", "--tiny", "-q", *options)
    assert status == 0, said[-3000:]
    assert int(said.split(" passed")[0].split()[-1]) >= functions


def test_one_gpu_measures_what_it_should():
    _, said = run(ROOT / "benchmarks", "--quick", "--collect-only", "-q")
    found = {line.split("::")[0].split("bench_")[-1].removesuffix(".py") for line in said.splitlines()}
    assert found >= {*OPERATORS, "htc", "mask_rcnn"}
    for words in (
        "roi_align.py::bench_gradient[512-7-bfloat16-True]",
        "conv3x3_relu.py::bench_four[512-bfloat16]",
        "mask_branch.py::bench_three_heads[800-bfloat16]",
        "mask_branch.py::bench_training[384]",
        "nms.py::bench_batched_nms[1000000-80]",
        "nms.py::bench_padded[8-1000-80-100]",
        "htc.py::bench_eight[optimized-bfloat16]",
        "htc.py::bench_predict[optimized-bfloat16-8]",
    ):
        assert words in said, words


def test_a_device_that_is_not_here():
    class Config:
        def getoption(self, name):
            return "toaster"

    with pytest.raises(pytest.UsageError, match=r"--device: .*toaster.* choose cpu, cuda"):
        conftest._device(Config())


def test_every_operator_and_family_has_its_file():
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert names == {*OPERATORS, *RUN_LENGTHS, *DETECTORS, *ACCELERATED} and set(CONVOLUTIONS) < names


def rows(median: float, spread: float = 0.1, **more) -> list[dict]:
    times = {"htc_fast": {"median": median, "spread": spread} | more}
    return [{"case": "x", "dtype": "float32", "milliseconds": times}]


@pytest.mark.parametrize(("median", "found"), [(1.0, 0), (1.3, 0), (1.4, 1), (0.1, 0)])
def test_slower_is_more_than_a_quarter_and_the_spread(median, found):
    assert len(slower.than({"rows": rows(1.0)}, rows(median))) == found


def test_graphs_are_compared_where_there_are_some():
    assert slower.than({"rows": rows(1.0, graph=0.1)}, rows(1.0, graph=0.5))
    found = stored.ratios({"us": {"median": 4, "graph": 1}, "a": {"median": 8, "graph": 3}, "b": {"median": 6}})
    assert found == {"a": 3.0, "b": 1.5}


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
    before["machine"] |= {"htc_fast": "0.1.0"}
    assert stored.merged(before, [new], {"torch": "1", "htc_fast": "0.1.0+cpu"}) == [old, new]
    assert stored.merged(before, [new], {"torch": "1", "htc_fast": "0.2.0+cpu"}) == [new]


def test_shares_are_of_the_slower_limit():
    found = stored.rates({"median": 100.0}, LIMITS, "float32", gigabytes=0.5, gflop=1)
    assert found == {"GB/s": 5.0, "TFLOP/s": 0.01, "share of limit": 0.5}
    assert "share of limit" not in stored.rates({"median": 1.0}, LIMITS, "float16", None, gflop=1)


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said = stored.save(tmp_path / "file" / "device", [("s", rows(1.0)[0], {})], torch.device("cpu"))
    assert said.startswith("cannot write") and "nothing was stored" in said


def test_who_is_not_installed_is_absent():
    missing = rivals.needs("no_such_package_at_all")(lambda: 1)
    stumbling = rivals.needs("torch")(lambda: 1 / 0)
    assert missing() == "no_such_package_at_all not installed" and isinstance(missing(), rivals.Absent)
    assert isinstance(stumbling(), rivals.Absent) and "ZeroDivisionError" in stumbling()


def test_compiling_is_left_out_where_it_would_take_longer_than_the_rest():
    def asked(**options):
        return rivals.compiled(torch.relu, Draw(torch.device("cpu"), **options), torch.bfloat16)

    assert asked(tiny=True) == "left out with --tiny" and asked() == "in bfloat16 only with --full"
    assert callable(asked(quick=True)) and callable(asked(full=True))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnknownMarkWarning")
def test_rivals_level_by_level_agree_with_ours():
    from benchmarks.bench_roi_align import SCALES, checked

    draw = Draw(torch.device("cpu"), tiny=True)
    maps, rois = draw.maps(dtype=torch.float16), draw.proposals(20)
    half = rivals.torchvision_half(maps, rois, 7, SCALES)()
    checked(maps, rois, 7, 3e-2)(None, half, "torchvision, float16")
    with pytest.raises(AssertionError):
        checked(maps, rois, 7, 3e-2)(None, half + 0.5, "torchvision, float16")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnknownMarkWarning")
@pytest.mark.skipif(torch.cuda.is_available() or not _backend.triton_installed(), reason="for Triton's interpreter")
def test_tiles_of_one_kind_alone_are_chosen_from(monkeypatch):
    from benchmarks.bench_conv3x3_relu import tiled
    from htc_fast.ops.triton import matrix, tiles

    copied, gathered = tiles.Tile(128, 128, box=(1, 8, 16)), tiles.Tile(64, 64, warps=4)
    usual, offered = matrix.tile_for, []
    monkeypatch.setattr(tiles, "candidates", lambda *_: [copied, gathered])
    monkeypatch.setattr(tiles, "by_waves", lambda shape, outputs, found, device: offered.append(found) or gathered)
    x, weight = torch.randn(2, 64, 4, 4), torch.randn(64, 64, 3, 3)
    call = lambda: ops.conv3x3_relu(x, weight, torch.zeros(64))  # noqa: E731
    for kind in (True, False):
        torch.testing.assert_close(tiled(call, kind)(), call(), rtol=1e-3, atol=1e-3)
    assert offered == [[copied], [gathered]] and matrix.tile_for is usual


class OnGpu(torch.Tensor):
    """A tensor that says so."""

    device = torch.device("cuda")


def test_boxes_of_a_gpu_must_be_those_of_the_cpu():
    given = torch.zeros(2)
    cases.as_on_the_cpu(lambda one: [1, 2], given)([3])  # on the CPU there is nothing to compare with
    check = cases.as_on_the_cpu(lambda one: [1, 2], given.as_subclass(OnGpu))
    check([1, 2])
    with pytest.raises(AssertionError, match="differs from the CPU"):
        check([2, 1])
