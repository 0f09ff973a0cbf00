"""README's and docs' numbers and pictures are those of benchmarks/results, and a wrong one is noticed."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import stored
from benchmarks.tables import __main__ as command
from benchmarks.tables import machines, operators, pages
from htc_fast.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"<!-- bench:([\w:]+) -->(.*?)<!-- /bench -->", re.DOTALL)
ASKED = {name: (path, made) for path in pages.texts() for name, made in MARKER.findall(path.read_text())}


@pytest.mark.parametrize("path", pages.texts(), ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path):
    assert pages.fill(path.read_text()) == path.read_text(), "run `make bench-tables`"


def test_pictures_are_those_of_the_results():
    assert pages.refresh(write=False) == [], "run `make bench-tables`"


def test_every_table_is_asked_for():
    assert set(ASKED) == set(pages.TABLES)


def test_that_no_gpu_was_measured_is_said_once_in_a_page():
    assert all(path.read_text().count("On a GPU: not measured") <= 1 for path in pages.texts())


def test_every_suite_of_the_benchmarks_is_in_a_table():
    suites = {suite for _, *suites in pages.TABLES.values() for suite in suites}
    assert {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")} <= suites
    assert {path.stem for path in stored.RESULTS.rglob("*.json")} <= suites


def test_a_typed_number_is_noticed():
    right = pages.fill("before <!-- bench:nms --><!-- /bench --> after")
    at = right.index("|", right.index("\n"))
    typed = right[:at] + "| 0.001 " + right[at:]
    assert pages.fill(typed) == right != typed and right.startswith("before") and right.endswith("after")


def test_an_unknown_table_is_named_with_its_neighbour():
    with pytest.raises(UserError, match="roi_align"):
        pages.fill("<!-- bench:roi_aling --><!-- /bench -->")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Pages, results and pictures that may be changed."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(stored, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["tables", "--check"])
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        if path.name in pages.PICTURES or path.suffix == ".md":
            shutil.copy(path, tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_the_check_agrees_and_then_does_not(copy, capsys, monkeypatch):
    assert command.main() == 0 and "agree" in capsys.readouterr().out
    path = copy / ASKED["nms"][0].relative_to(ROOT)
    right = path.read_text()
    number = re.search(r" (\d+\.\d\d) \|", right[right.index("<!-- bench:nms -->") :])[1]
    path.write_text(right.replace(f" {number} |", " 123 |", 1))
    assert command.main() == 1 and f"{path.relative_to(copy)}: not what" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["tables"])
    assert command.main() == 0 and path.read_text() == right


@pytest.mark.parametrize("suite", ["nms", "sweep", "profile"])
def test_a_changed_result_is_noticed(copy, capsys, suite):
    path = machines.newest((suite,)) / f"{suite}.json"
    result = json.loads(path.read_text())
    result["machine"]["torch"] = "0.1"
    path.write_text(json.dumps(result))
    assert command.main() == 1
    assert ("png" in capsys.readouterr().out) == (suite != "nms")


def row(case: str = "x", day: str = "2026-01-01", **more) -> dict:
    found = {"case": case, "dtype": "float32", "date": day, "full": False, "ratio": {}, "absent": {}}
    return found | {"milliseconds": {"htc_fast": {"median": 1.0, "spread": 0.1}}} | more


def device(folder: Path, name: str, day: str, *suites: str, rows: list[dict] | None = None) -> None:
    about = {"device": name, "date": day, "torch": day}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for suite in suites:
        result = {"machine": about, "limits": {"copy GB/s": 1.0}, "rows": rows or [row(day=day)]}
        (folder / name / f"{suite}.json").write_text(json.dumps(result))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "RESULTS", tmp_path)
    return tmp_path


def test_of_several_devices_the_last_cpu_and_the_last_gpu_are_shown(results):
    device(results, "amd-one", "2026-01-03", "nms", "soft_nms", "paste_masks")
    device(results, "amd-two", "2026-01-02", "nms", "encode_masks", "paste_masks")
    text = operators.operators(("nms", "soft_nms"))
    assert "amd-one" in text and "amd-two" not in text and "measured." not in text
    device(results, "amd-two", "2026-01-04", "nms")
    device(results, "nvidia-old", "2026-01-01", "nms", "soft_nms")
    device(results, "nvidia-new", "2026-01-02", "nms")
    text = operators.operators(("nms", "soft_nms"))
    # One table is one machine: amd-two has no soft-NMS, and amd-one's is not borrowed.
    assert "amd-two" in text and "amd-one" not in text and "soft_nms" not in text.split("nvidia")[0]
    assert "nvidia-new" in text and "nvidia-old" not in text
    assert text.index("amd-two") < text.index("nvidia-new")
    assert operators.operators(("pr_roi_pool",)) == "Not measured."


def test_whether_a_gpu_was_measured_is_said_in_the_summary(results):
    device(results, "amd", "2026-01-01", "nms")
    assert operators.summary(("nms",)).endswith("On a GPU: not measured.")
    device(results, "nvidia-h200", "2026-01-02", "nms")
    text = operators.summary(("nms",))
    assert "nvidia-h200" in text and "not measured" not in text
    assert machines.gpu(("nms",)) == "On a GPU: nvidia-h200, 2026-01-02."


def squeezed(text: str) -> str:
    """Without the spaces that align columns."""
    return re.sub(" +", " ", text)


RIVALS = {
    "htc_fast": {"median": 2.0, "spread": 0.1},
    "slow": {"median": 9.0, "spread": 0.1},
    "htc_fast, two launches": {"median": 1.0, "spread": 0.1},
    "quick": {"median": 4.0, "spread": 0.1},
}
RATIO = {"slow": 4.5, "htc_fast, two launches": 0.5, "quick": 2.0}


def test_the_summary_names_the_best_rival(results):
    found = [row("alone"), row("beside others", milliseconds=RIVALS, ratio=RATIO), row("later", milliseconds=RIVALS)]
    device(results, "amd", "2026-01-01", "nms", rows=found)
    assert "| `nms`: beside others | 2.00; quick 2× |" in squeezed(operators.summary(("nms",)))
    line = "On amd: beside others in 2.00 ms; slow 9.00 ms (4.5×); quick 4.00 ms (2×)."
    assert operators.line(("nms",)) == line
    device(results, "amd", "2026-01-01", "htc", rows=[row("htc_r50, eager"), row("htc_r50, optimized, 8", full=True)])
    assert "| htc_r50, eager | 1.00 |" in squeezed(operators.summary(("htc",)))


def test_the_summary_has_cpu_and_gpu_side_by_side(results):
    device(results, "amd", "2026-01-01", "nms", rows=[row("of both", milliseconds=RIVALS, ratio=RATIO)])
    shown = [row("other", milliseconds=RIVALS, ratio=RATIO, dtype="bfloat16", pictures=2)]
    device(results, "nvidia-h200", "2026-01-01", "nms", rows=shown)
    device(results, "nvidia-h200", "2026-01-01", "htc", rows=[row("htc_r50, optimized")])
    rate = {"batch": 8, "dtype": "bfloat16", "ms": 17.0, "ms in a row": 16.0}
    device(
        results, "nvidia-h200", "2026-01-01", "kernels", rows=[rate | {"mode": "optimized"}, rate | {"mode": "eager"}]
    )
    text = squeezed(operators.summary(("nms", "htc")))
    assert "| | amd, ms | nvidia-h200, ms |" in text
    assert "| `nms`: of both | 2.00; quick 2× | 1.00; quick 2× (other, bf16) |" in text
    assert "| htc_r50, optimized | – | 1.00 |" in text
    assert text.endswith("images/s on the device: optimized 500 in batches of 8; eager 500 in batches of 8.")


def test_on_a_gpu_like_is_compared_with_like(results):
    times = {
        "htc_fast": {"median": 0.03, "spread": 0.001, "cold L2": 0.04, "graph": 0.01},
        "htc_fast, triton": {"median": 0.05, "spread": 0.001, "graph": 0.02},
        "torchvision": {"median": 0.3, "spread": 0.001},
    }
    found = row("some", milliseconds=times, ratio=stored.ratios(times), **{"share of limit": 0.5})
    device(results, "nvidia-h200", "2026-01-01", "nms", rows=[found])
    text = squeezed(operators.operators(("nms",)))
    assert "| some | 0.01 | 0.001 | – | 50% | htc_fast, triton 0.02 (2×); torchvision 0.30 (10×*) |" in text
    assert operators.REPLAYED in text


def test_a_detector_is_shown_by_the_picture(results):
    found = [row("htc_r50, optimized", dtype="bfloat16"), row("htc_r50, optimized, 8 pictures", pictures=8)]
    found[1]["milliseconds"] = {"htc_fast": {"median": 4000.0, "spread": 1.0}}
    device(results, "nvidia-h200", "2026-01-01", "htc", rows=found)
    text = squeezed(operators.models(("htc",)))
    assert "| htc_r50, optimized | – | 0.001 |" in text and "| htc_r50, optimized, 8 pictures | 0.5 | – |" in text
