"""Training as it is measured: steps in every mode, whole runs, and what tables say of both."""

import subprocess
import sys

import pytest
import torch

from benchmarks import stored, trained, training
from benchmarks.tables import runs
from htc_fast import UserError
from htc_fast.training.metrics import EVALUATIONS, LOSSES, append_row

MACHINE = {"device": "a GPU", "date": "2026-01-02", "torch": "2.11.0"}


@pytest.mark.slow
def test_a_toy_is_measured_beside_its_rival():
    command = [sys.executable, "-m", "benchmarks.training", "--tiny", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.strip().splitlines()[-2:]
    assert "case htc_r50  mode eager" in first and training.RIVAL in second and "images/s" in second


def test_steps_in_a_table():
    row = {"case": "htc_r50", "dtype": "bfloat16", "batch": 8, "mode": "graphs", "ms": 100.0, "images/s": 80.0}
    row |= {"spread ms": 0.5, "peak MB": 10240, "first step s": 1.6, "shapes": ["800×832"]}
    rival = {**row, "case": training.RIVAL, "mode": "eager", "shapes": ["800×1088"]}
    del rival["first step s"], rival["peak MB"]
    text = runs.training_speed_of({"machine": MACHINE, "rows": [row, rival]})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[1] == ["htc_r50, bf16, batch 8, graphs", "80.0", "100.0", "0.5", "10.0", "2", "800×832"]
    assert lines[2][-3:] == ["–", "–", "800×1088"] and "a GPU" in text


def test_a_run_in_a_row_and_in_a_table(tmp_path):
    for iteration, speed in [(10, 3.0), (20, 40.0), (30, 50.0), (40, 60.0)]:
        append_row(tmp_path / LOSSES, iteration, {"loss": 1.0, "images_per_second": speed, "memory_mb": 2000.0})
    for iteration, score in [(20, 0.1), (40, 0.25)]:
        append_row(tmp_path / EVALUATIONS, iteration, {"mask_AP": score, "mask_AP50": 0.5, "box_AP": 0.3})
    (tmp_path / "nuclei").mkdir()
    given = ["--data", str(tmp_path / "nuclei"), "--amp", "--set", "backbone=x/y"]
    row = trained.described("nuclei", given, tmp_path, 12.34)
    assert (
        row["options"] == "--data nuclei --amp --set backbone=x/y" and row["seconds"] == 12.3 and row["peak MB"] == 2000
    )
    assert row["iterations"] == 40 and row["images/s"] == 60.0 and row["mask_AP"] == 0.25 and "mask_AP75" not in row
    text = runs.trained_of({"machine": MACHINE, "rows": [row]})
    assert "0.250" in text and "`--data nuclei --amp --set backbone=x/y`" in text and "– |" in text


def test_a_run_that_was_not_evaluated_is_told_all_the_same(tmp_path):
    append_row(tmp_path / LOSSES, 10, {"loss": 1.0, "images_per_second": 3.0, "memory_mb": 2000.0})
    row = trained.described("short", [], tmp_path, 5.0)
    text = runs.trained_of({"machine": MACHINE, "rows": [row]})
    assert row["iterations"] == 10 and "mask_AP" not in row and text.count("– |") == 4 and "`" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a run", "--", "--out", "mine"], "--out is not to be given"),
        (["a | b", "--", "--amp"], "give the run a name without |"),
    ],
)
def test_what_cannot_be_stored_is_refused(words, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["trained", *words])
    with pytest.raises(UserError, match=sentence.replace("|", r"\|")):
        trained.main()


def test_a_run_without_steps_is_told_so(tmp_path):
    with pytest.raises(UserError, match="ended before its tenth step"):
        trained.described("none", [], tmp_path, 1.0)


@pytest.mark.parametrize("words", [["--different", "0"], ["--batch", "0"], ["--models", "nope", "--tiny"]])
def test_numbers_and_names_that_make_no_sense_are_refused(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training", "--device", "cpu", *words])
    with pytest.raises(UserError, match=r"--different|--batch|nope"):
        training.main()


def test_rows_of_other_versions_do_not_stay(tmp_path):
    device, path = torch.device("cpu"), tmp_path / "training_speed.json"
    key = "case", "batch", "mode"
    stored.add(path, device, [{"case": "a", "batch": 2, "mode": "eager"}], key)
    stored.add(path, device, [{"case": "a", "batch": 8, "mode": "eager"}], key)
    assert [row["batch"] for row in stored.load(path)["rows"]] == [2, 8]
    path.write_text(path.read_text().replace(torch.__version__.split("+")[0], "1.0.0"))
    stored.add(path, device, [{"case": "a", "batch": 4, "mode": "eager"}], key)
    assert [row["batch"] for row in stored.load(path)["rows"]] == [4]


def test_the_descendants_in_a_table():
    def case(name, *masks):
        scores = [{"seed": seed, "box_AP": 0.5, "mask_AP": one, "mask_AP50": 0.75} for seed, one in enumerate(masks)]
        found = [{**one, "iterations": 100 + 10 * one["seed"], "training seconds": 60.0} for one in scores]
        return {"case": name, "minutes": 1.0, "jobs": 2, "runs": found}

    rows = [case("HTC", 0.40, 0.41, 0.42), case("SCNet", 0.45, 0.46, 0.47)]
    text = runs.descendants_of({"machine": MACHINE, "rows": rows})
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[1] == ["HTC", "100 to 120", "50.0 ± 0.0", "41.0 ± 1.0", "75.0 ± 0.0", ""]
    assert lines[2] == ["SCNet", "100 to 120", "50.0 ± 0.0", "46.0 ± 1.0", "75.0 ± 0.0", "**+5.0 ± 0.0**"]
    assert "3 seeds, 1 minutes each" in text and "2 runs side by side" in text


def test_the_memory_of_targets_in_a_table():
    usual = {"data": "the sample, two pictures a step", "ms of loading": 51.2, "ms of a step": 956.0}
    large = {"objects": 2000, "side": 1024, "MB of loading": 42, "MB of loading and a step": 284, "s of loading": 0.5}
    rows = [{**usual, "form": "before"}, {**large, "form": "after", "s of a step": 12.5}]
    text = runs.target_memory_of({"machine": MACHINE, "rows": rows})
    line = next(line for line in text.splitlines() if line.startswith("| 2000"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["2000 objects at 1024²", "layers", "42", "284", "0.5", "12.5"]
    assert "a bitmap for each 51 and 956 ms" in text
