"""`predict` and `evaluate` with several views and several weights files: real detectors, small ones."""

import copy
import json
from pathlib import Path

import pytest
import torch

from htc_fast import evaluate, predict
from htc_fast.commands import entry, network
from htc_fast.data import CocoDataset
from htc_fast.errors import UserError, say_once
from htc_fast.evaluate import EvaluationRun
from htc_fast.evaluation import coco
from htc_fast.inference import Views
from htc_fast.predict import PredictionRun
from tests.data.builder import write
from tests.models.test_zoo import tiny

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def models():
    """By the names of their files: a is a model and b its copy, c another one, d of other classes."""
    a, c = tiny("htc_r50", class_names=NAMES, image_size=(64, 96)), tiny("mask_rcnn_r50", image_size=(64, 128))
    d = tiny("mask_rcnn_r50", class_names=("cat", "owl", "dog"))
    return {"a": a.eval(), "b": copy.deepcopy(a).eval(), "c": c.eval(), "d": d.eval()}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, models):
    """Run a command in a folder with a data set; returns exit status, stdout and stderr."""
    say_once.cache_clear()
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network, "load", lambda path, **_: copy.deepcopy(models[path.name]))

    def run(command, *arguments):
        monkeypatch.setattr("sys.argv", [command.__name__, *map(str, arguments), "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def results(folder, name="results.json"):
    return json.loads((Path(folder) / name).read_text())


def test_predict_with_views(run):
    options = ("data/val2017", "--score", 0, "--no-overlays", "--weights", "a")
    assert run(predict, *options, "--out", "one")[0] == 0
    status, out, err = run(predict, *options, "--out", "many", "--tta", "--tta-sides", 64, 96, "--batch-size", 2)
    assert status == 0 and "2 pictures, 16 instances" in out
    assert "pictures are taken one by one, whatever --batch-size says" in err
    one, many = results("one"), results("many")
    assert len(one) == len(many) == 16 and one != many
    assert {item["image_id"] for item in many} == {10, 11} and {item["category_id"] for item in many} <= {1, 2, 3}
    assert many[0]["segmentation"]["size"] == [48, 64] and many[-1]["segmentation"]["size"] == [72, 40]
    # One size, not mirrored, is no other answer.
    assert run(predict, *options, "--out", "same", "--tta", "--tta-sides", 64, "--no-tta-flip")[0] == 0
    assert results("same") == one


@pytest.mark.parametrize("options", [(), ("--image-size", "64"), ("--optimize",), ("--stage", "2")], ids=" ".join)
def test_a_copy_changes_nothing(run, options):
    for weights, out in ((["a"], "one"), (["a", "b"], "two")):
        given = ["--data", "data", "--out", out, *options, "--weights", *weights]
        status, printed, _ = run(evaluate, *given)
        assert status == 0 and "2 pictures" in printed
    suffix = ".stage2" if "--stage" in options else ""
    one, two = (results(out, f"results{suffix}.segm.json") for out in ("one", "two"))
    assert one == two and len(one) == 16


def test_evaluate_with_everything(run):
    given = ["--data", "data", "--weights", "a", "c", "--tta", "--tta-sides", 64, "--optimize", "--out", "out"]
    status, out, _ = run(evaluate, *given, "--stage", "all", "--detections", 5)
    assert status == 0 and "stage 1, 2 pictures" in out and "ensemble, 2 pictures" in out and "stage 2" not in out
    assert set(results("out", "metrics.json")) == {"stage 1", "ensemble"}
    found = results("out", "results.bbox.json")
    assert len(found) == 10 and {item["category_id"] for item in found} <= {7, 3, 90}


def test_views_are_evaluated_in_python_too(run, models):
    views, dataset = Views(models["a"], [(64, 96)], flip=False), CocoDataset("data", "val", semantic="none")
    found = coco.evaluate(views, dataset, batch_size=2, progress=False)
    assert found == coco.evaluate(models["a"], dataset, progress=False) and found["box_AR100"] >= 0


def test_what_a_run_loads(run):
    made = EvaluationRun(weights=["a", "c"], data="data", max_dets=300).load()
    assert isinstance(made, Views) and made.config.detections == 300 and made.sizes is None and not made.flip
    assert EvaluationRun(weights="a", tta=True, tta_sides=[100]).load().sizes == ((100, 150),)
    assert not isinstance(EvaluationRun(weights="a").load(), Views)
    assert EvaluationRun(weights=["a", "c"]).weights == (Path("a"), Path("c"))
    with pytest.raises(UserError, match="--weights takes at least one checkpoint, got none"):
        EvaluationRun(weights=())


def test_pictures_behind_the_weights(run, tmp_path):
    picture = sorted((tmp_path / "data" / "val2017").iterdir())[0]
    for last in (picture, "data/val2017", "data/*/*10.png"):
        status, out, _ = run(predict, "--weights", "a", last, "--no-overlays", "--score", 0)
        assert status == 0 and ("2 pictures" if last == "data/val2017" else "1 pictures") in out
    given = PredictionRun(weights=["a", "b.pth", str(picture), "b.png"])
    assert given.weights == (Path("a"), Path("b.pth")) and given.pictures == (str(picture), "b.png")
    assert PredictionRun(weights=["a", "b"], pictures=["c.png"]).weights == (Path("a"), Path("b"))
    assert run(predict, "--weights", "a", "b")[2].startswith("error: no pictures to predict")


ERRORS = {
    "two sizes": (["--tta", "--image-size", "64"], "--tta has sizes of its own: leave out --image-size, or choose"),
    "sides alone": (["--tta-sides", "64"], "--tta-sides and --tta-flip say how --tta looks: give --tta too"),
    "flip alone": (["--no-tta-flip"], "--tta-sides and --tta-flip say how --tta looks: give --tta too"),
    "a side": (["--tta", "--tta-sides", "8"], "--tta-sides takes a whole number from 32 to 43690, got 8"),
    "no side": (["--tta", "--tta-sides"], "expected at least one argument"),
    "no number": (["--tta", "--tta-sides", "600x900"], "--tta-sides"),
    "classes": (["--weights", "a", "d"], "class 2 is 'dog' in model 1 (htc_r50), and 'owl' in model 2 (mask_rcnn"),
    "stage": (["--weights", "a", "c", "--stage", "2"], "there is no stage 2: mask_rcnn_r50 has one stage"),
    "stage of one": (["--weights", "c", "--tta", "--stage", "3"], "there is no stage 3: mask_rcnn_r50 has one stage"),
}


@pytest.mark.parametrize("command", [predict, evaluate], ids=["predict", "evaluate"])
@pytest.mark.parametrize("arguments, sentence", ERRORS.values(), ids=ERRORS)
def test_errors(command, arguments, sentence, run):
    given = ["data/val2017"] if command is predict else ["--data", "data"]
    weights = [] if "--weights" in arguments else ["--weights", "a"]
    status, _, err = run(command, *given, *weights, *arguments)
    assert status == 2 and sentence in err and "Traceback" not in err and err.count("error: ") == 1


def test_memory_that_runs_out(run, monkeypatch):
    def none(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("htc_fast.models.htc.HTC.extract", none)
    status, _, err = run(evaluate, "--data", "data", "--weights", "a", "--tta")
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("error: out of memory for 10 views at once of a picture of 64 x 48 pixels")


def test_a_folder_with_weights_behind_others_is_weights(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "pictures").mkdir()
    run = PredictionRun(weights=[tmp_path / name for name in ("one", "two", "pictures")])
    assert [one.name for one in run.weights] == ["one", "two"] and run.pictures == (str(tmp_path / "pictures"),)


def test_of_several_files_the_model_s_name_is_for_those_that_do_not_say_it(monkeypatch, models):
    asked = []
    monkeypatch.setattr(network, "load", lambda path, **options: asked.append(options) or models[path.name])
    for weights in (["a"], ["a", "b"]):
        EvaluationRun(weights=weights, model="htc_r50", data="data", device="cpu").load()
    assert [one.get("name") for one in asked] == ["htc_r50", None, None]
    assert [one.get("otherwise") for one in asked] == [None, "htc_r50", "htc_r50"]
