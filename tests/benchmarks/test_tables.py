"""The README's numbers and pictures are those of benchmarks/results, and a wrong one is noticed."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "scripts" / "bench_tables.py")
bench_tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_tables)
README = (ROOT / "README.md").read_text()


def test_tables_are_those_of_the_results():
    assert bench_tables.fill(README) == README, "run `make bench-tables`"


def test_pictures_are_those_of_the_results():
    assert bench_tables.pictures(write=False) == [], "run `make bench-tables`"


def test_a_typed_number_is_noticed():
    at = README.index("|", README.index("<!-- bench:nms -->"))
    changed = README[:at] + "| 0.001 " + README[at:]
    assert bench_tables.fill(changed) == README != changed


def test_every_table_is_asked_for():
    assert all(f"<!-- bench:{name} -->" in README for name in bench_tables.TABLES)


def test_every_suite_of_the_benchmarks_is_in_a_table():
    suites = {suite for _, *suites in bench_tables.TABLES.values() for suite in suites}
    assert {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")} <= suites


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A README, results and pictures that may be changed."""
    monkeypatch.setattr(bench_tables, "README", tmp_path / "README.md")
    monkeypatch.setattr(bench_tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench_tables, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench_tables.py", "--check"])
    (tmp_path / "README.md").write_text(README)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results")
    for name in bench_tables.PICTURES:
        shutil.copy(ROOT / "docs" / name, tmp_path)
    return tmp_path


def test_the_check_agrees_and_then_does_not(copy, capsys):
    assert bench_tables.main() == 0
    number = re.search(r"\| (\d+\.\d\d) \|", README[README.index("<!-- bench:nms -->") :])[1]
    (copy / "README.md").write_text(README.replace(f"| {number} |", "| 123 |", 1))
    assert bench_tables.main() == 1 and "README.md: not what" in capsys.readouterr().out


@pytest.mark.parametrize("suite", ["nms", "sweep", "profile"])
def test_a_changed_result_is_noticed(copy, capsys, suite):
    path = bench_tables.newest((suite,)) / f"{suite}.json"
    result = json.loads(path.read_text())
    result["machine"]["torch"] = "0.1"
    path.write_text(json.dumps(result))
    assert bench_tables.main() == 1
    assert ("png" in capsys.readouterr().out) == (suite != "nms")


def device(folder: Path, name: str, day: str, *suites: str) -> None:
    about = {"device": name, "date": day, "torch": day}
    row = {"case": "x", "dtype": "float32", "date": day, "full": False, "ratio": {}, "absent": {},
           "milliseconds": {"htc_fast": {"median": 1.0, "spread": 0.1}}}  # fmt: skip
    (folder / name).mkdir(parents=True, exist_ok=True)
    for suite in suites:
        result = {"machine": about, "limits": {"copy GB/s": 1.0}, "rows": [row]}
        (folder / name / f"{suite}.json").write_text(json.dumps(result))


def test_of_several_devices_the_last_cpu_and_the_last_gpu_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_tables, "RESULTS", tmp_path)
    device(tmp_path, "amd-one", "2026-01-03", "nms", "soft_nms", "paste")
    device(tmp_path, "amd-two", "2026-01-02", "nms", "encode", "paste")
    text = bench_tables.operators(("nms", "soft_nms"))
    assert "amd-one" in text and "amd-two" not in text and "On a GPU: not measured." in text
    device(tmp_path, "amd-two", "2026-01-04", "nms")
    device(tmp_path, "nvidia-old", "2026-01-01", "nms", "soft_nms")
    device(tmp_path, "nvidia-new", "2026-01-02", "nms")
    text = bench_tables.operators(("nms", "soft_nms"))
    # One table is one machine: amd-two has no soft-NMS, and amd-one's is not borrowed.
    assert "amd-two" in text and "amd-one" not in text and "soft_nms" not in text.split("nvidia")[0]
    assert "nvidia-new" in text and "nvidia-old" not in text and "not measured" not in text
    assert text.index("amd-two") < text.index("nvidia-new")


def test_counted_costs_are_current():
    spec = importlib.util.spec_from_file_location("matrix_costs", ROOT / "scripts" / "matrix_costs.py")
    costs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(costs)
    assert costs.document() == costs.DOCUMENT.read_text(), "run python scripts/matrix_costs.py --update"
