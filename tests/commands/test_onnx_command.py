"""`predict` and `evaluate` with an exported file as --weights: what the detector in its frame finds."""

import json
import shutil
from dataclasses import replace

import pytest

from htc_fast import UserError, evaluate, predict
from htc_fast.commands import entry
from htc_fast.data import CocoDataset
from htc_fast.evaluation import coco
from htc_fast.inference import Framed
from htc_fast.inference.onnx import export_onnx
from htc_fast.predict import PredictionRun
from tests.data.builder import write
from tests.models.test_zoo import tiny

FRAME = (64, 96)


@pytest.fixture(scope="module")
def model():
    return tiny("cascade_mask_r50", class_names=("cat", "dog", "owl"), category_ids=(7, 3, 90)).eval()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "second.onnx"
    export_onnx(model, path, image_size=FRAME, stage=2)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, path):
    """Run a command in a folder with a data set; returns exit status, stdout and stderr."""
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments):
        monkeypatch.setattr("sys.argv", [command.__name__, *map(str, arguments), "--weights", str(path)])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def test_predict(run, model, tmp_path):
    status, out, _ = run(predict, "data/val2017", "--out", "found", "--score", "0")
    assert status == 0 and out.startswith("2 pictures, ")
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 2
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    model.config = replace(model.config, test_stage=2)
    pictures = sorted((tmp_path / "data" / "val2017").iterdir())
    wanted = Framed(model, FRAME).predict(pictures, score_threshold=0.0)
    assert [one["score"] for one in results] == pytest.approx(
        [score for one in wanted for score in one.scores.tolist()], abs=1e-4
    )
    assert len(results) > 4 and {one["category_id"] for one in results} <= {7, 3, 90}


@pytest.mark.parametrize("stage", [(), ("--stage", "2")])
def test_evaluate(run, model, tmp_path, stage):
    """Of a file of one stage that stage is all that there is."""
    status, out, _ = run(evaluate, "--data", "data", "--out", "scores", *stage, "--batch-size", "2")
    assert status == 0 and ", 2 pictures" in out
    (metrics,) = json.loads((tmp_path / "scores" / "metrics.json").read_text()).values()
    model.config = replace(model.config, test_stage=2)
    dataset = CocoDataset(tmp_path / "data", "val", semantic="none")
    assert metrics["metrics"] == pytest.approx(coco.evaluate(Framed(model, FRAME), dataset, progress=False), abs=1e-3)


REFUSED = {
    "--optimize": ("--optimize",),
    "--amp": ("--amp",),
    "--tta": ("--tta",),
    "--image-size": ("--image-size", "64"),
    "--detections": ("--detections", "9"),
    "--model": ("--model", "htc_r50"),
    "--device": ("--device", "cuda"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_a_file_cannot_be_asked(run, option):
    status, _, told = run(predict, "data/val2017", *REFUSED[option])
    assert status != 0 and told.count("\n") == 1
    assert f"an ONNX file detects on a processor, as it was exported, so leave out {option}." in told


@pytest.mark.parametrize("stage", ["1", "3"])
def test_other_stages_are_not_in_a_file(run, stage):
    status, _, told = run(predict, "data/val2017", "--stage", stage)
    assert status != 0 and f"export it with --stage {stage}." in told and told.count("\n") == 1


def test_a_name_in_capitals_is_one_too(path, tmp_path):
    shutil.copy(path, tmp_path / "A.ONNX")
    found = PredictionRun(weights=(tmp_path / "A.ONNX",), pictures=("data",)).load()
    assert found.frame == (1, 64, 96)


def test_several_files_do_not_decide_together(path):
    with pytest.raises(UserError, match="so leave out several --weights, --tta"):
        PredictionRun(weights=(path, "other.safetensors"), pictures=("data",), tta=True).load()
