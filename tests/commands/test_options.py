"""Every command line: help, and wrong options answered in one sentence with exit status 2."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "htc_fast"
COMMANDS = sorted(path.stem for path in PACKAGE.glob("*.py") if 'if __name__ == "__main__"' in path.read_text())
NO_FILE = "there is no weights file"
WRONG = {
    "train: near miss": (["train", "--epoch-s", "3"], "did you mean --epochs"),
    "train: no number": (["train", "--epochs", "many"], "--epochs"),
    "train: model": (["train", "--model", "htc_r5O"], "did you mean htc_r50"),
    "train: backbone": (["train", "--backbone", "resnet5O"], "resnet50"),
    "train: field": (["train", "--set", "semantik=box"], "did you mean semantic"),
    "train: count": (["train", "--set", "channels=-3"], "channels must be an integer from 1 to 65536, got -3"),
    "train: kind": (["train", "--set", "match_iou=0.5"], "match_iou must be a tuple of 1 to 8 numbers, got 0.5"),
    "train: decided elsewhere": (["train", "--set", "num_classes=3"], "the data decides it"),
    "train: negative": (["train", "--warmup", "-1"], "at least 0"),
    "train: infinite": (["train", "--lr", "inf"], "--lr takes a finite number above 0, got inf"),
    "train: out": (["train", "--out", "/dev/null/run"], "choose another --out"),
    "train: size": (["train", "--image-size", "3"], "--image-size"),
    "train: optimizer": (["train", "--optimizer", "sdg"], "did you mean sgd"),
    "train: device": (["train", "--device", "toaster"], "choose cpu"),
    "train: no data": (["train", "--data", "nowhere"], "nowhere"),
    "train: empty batch": (["train", "--batch-size", "0"], "--batch-size takes a whole number from 1 to 65536, got 0"),
    "train: batch": (["train", "--batch-size", "all"], "invalid int or auto value: 'all'"),
    "train: logger": (["train", "--log", "wandbb"], "unknown logger 'wandbb': did you mean wandb"),
    "train: patience": (["train", "--patience", "2", "--evaluate-every", "0"], "--patience counts evaluations"),
    "ablate: batch": (["ablate", "--batch-size", "auto"], "may differ from run to run"),
    "train: the longer side first": (["train", "--image-size", "1333", "800"], "the smaller first, got (1333, 800)"),
    "train: sizes": (
        ["train", "--train-sizes", "400", "1400", "600"],
        "(HIGH, LONG), the smaller first, got (1400, 600)",
    ),
    "train: sizes, small": (["train", "--train-sizes", "4", "64", "96"], "--train-sizes takes two sides of 32"),
    "train: too many": (["train", "--warmup", "1" + "0" * 400], "--warmup takes a whole number from 0 to 2147483647"),
    "ablate: near miss": (["ablate", "--seedz", "3"], "did you mean --seeds"),
    "ablate: table": (["ablate", "--tables", "2", "9"], "there is no table 9 to train: choose some of 2, 3, 4, 5, 6"),
    "ablate: what is varied": (["ablate", "--set", "semantic=box"], "--set semantic is not to be set"),
    "ablate: jobs": (["ablate", "--jobs", "0"], "--jobs takes a whole number from 1 to 64, got 0"),
    "ablate: pictures": (["ablate", "--val-limit", "0"], "--val-limit takes a whole number of at least 1, got 0"),
    "ablate: no branch": (["ablate", "--semantic", "none"], "--semantic none leaves the semantic branch out"),
    "evaluate: near miss": (["evaluate", "--weights", "x", "--splitt", "val"], "did you mean --split"),
    "evaluate: weights left out": (["evaluate"], "--weights"),
    "evaluate: stage": (["evaluate", "--weights", "x", "--stage", "4"], "--stage"),
    "evaluate: empty batch": (["evaluate", "--weights", "x", "--batch-size", "0"], "--batch-size"),
    "evaluate: score": (
        ["evaluate", "--weights", "x", "--score", "nan"],
        "--score takes a number from 0 to 1, got nan",
    ),
    "evaluate: workers": (
        ["evaluate", "--weights", "x", "--workers", "-1"],
        "--workers takes a whole number of at least",
    ),
    "evaluate: limit": (["evaluate", "--weights", "x", "--limit", "0"], "--limit takes a whole number of at least 1"),
    "evaluate: max dets": (["evaluate", "--weights", "x", "--max-dets", "0"], "--max-dets takes a whole number from 1"),
    "evaluate: no data": (["evaluate", "--weights", "x", "--data", "nowhere"], "nowhere"),
    "predict: near miss": (["predict", "a.jpg", "--weight", "x", "--no-overlay-s"], "--no-overlays"),
    "predict: weights left out": (["predict", "a.jpg"], "--weights"),
    "predict: score": (["predict", "a.jpg", "--weights", "x", "--score", "2"], "--score"),
    "predict: score of no number": (["predict", "a.jpg", "--weights", "x", "--score", "nan"], "from 0 to 1, got nan"),
    "predict: workers": (["predict", "a.jpg", "--weights", "x", "--workers", "-1"], "--workers takes a whole number"),
    "predict: detections": (
        ["predict", "a", "--weights", "x", "--detections", "0"],
        "--detections takes a whole number",
    ),
    "predict: batch": (
        ["predict", "a.jpg", "--weights", "x", "--batch-size", "-1"],
        "--batch-size takes a whole number",
    ),
    "predict: format": (["predict", "a.jpg", "--weights", "x", "--format", "yollo"], "did you mean yolo"),
    "predict: every": (
        ["predict", "a.mp4", "--weights", "x", "--every", "0"],
        "--every takes a whole number of at least",
    ),
    "predict: no pictures": (["predict", "--weights", "x"], "name files, folders or globs"),
    "predict: glob": (["predict", "*.nothing", "--weights", "x"], "nothing matches"),
    "predict: no file": (["predict", "a.jpg", "--weights", "x"], NO_FILE),
    "convert: no checkpoint": (["convert"], "convert takes one checkpoint, got 0"),
    "convert: near miss": (["convert", "a.pth", "--modle", "htc_r50"], "did you mean --model"),
    "convert: whose": (["convert", "a.pth", "--to", "caffe"], "htc_fast"),
    "convert: name": (["convert", "a.pth", "--out", "b.pth"], "--out has to end in .safetensors"),
    "convert: no file": (["convert", "x.pth"], NO_FILE),
    "export: weights left out": (["export"], "--weights"),
    "export: detections": (["export", "--weights", "x", "--detections", "99999"], "from 1 to 10000, got 99999"),
    "export: no file": (["export", "--weights", "x"], NO_FILE),
    "export: size": (["export", "--weights", "x", "--image-size", "8"], "(height, width), got (8, 8)"),
    "export: name": (["export", "--weights", "x", "--out", "a.tflite"], "has to end in .pt2"),
    "export: name of another kind": (
        ["export", "--weights", "x", "--format", "onnx", "--out", "a.pt2"],
        "end in .onnx",
    ),
    "export: format": (["export", "--weights", "x", "--format", "tflite"], "invalid choice: 'tflite'"),
    "export: of another format": (["export", "--weights", "x", "--fp16"], "--fp16 says how an ONNX file is made"),
    "export: aot": (["export", "--weights", "x", "--out", "a.onnx", "--aot"], "--aot compiles a .pt2 file"),
    "export: opset": (["export", "--weights", "x", "--out", "a.onnx", "--opset", "22"], "--opset takes a whole number"),
    "export: two batches": (
        ["export", "--weights", "x", "--out", "a.onnx", "--dynamic-batch", "--batch-size", "2"],
        "--dynamic-batch takes any number",
    ),
    "export: half a pair": (
        ["export", "--weights", "x", "--image-size", "64", "96", "64"],
        "pairs of height and width",
    ),
    "export: empty batch": (["export", "--weights", "x", "--batch-size", "0"], "--batch-size"),
    "look: nothing": (["look"], "there is nothing to look at: name a folder"),
    "look: two": (["look", "a", "b"], "one data set at a time: got a, b"),
    "look: absent": (["look", "/nowhere"], "data set folder /nowhere is missing"),
    "look: pictures": (["look", "a", "--pictures", "1000"], "--pictures takes a whole number from 0 to 500, got 1000"),
    "profile: near miss": (["profile", "--round", "3", "--image-sice", "64"], "did you mean --image-size"),
    "profile: model": (["profile", "--models", "htc_r5O"], "did you mean htc_r50"),
    "profile: mode": (["profile", "--modes", "egaer"], "did you mean eager"),
    "profile: dtype": (["profile", "--dtypes", "float23"], "did you mean float32"),
    "profile: field": (["profile", "--set", "semantik=box"], "did you mean semantic"),
    "profile: size": (["profile", "--image-size", "3"], "--image-size"),
    "profile: huge": (["profile", "--image-size", "1000000", "1000000"], "65536"),
    "profile: threads": (["profile", "--threads", "100000"], "--threads takes a whole number from 1 to 1024"),
    "profile: batch": (["profile", "--batch-size", "0"], "--batch-size takes a whole number from 1 to 65536, got 0"),
    "profile: out": (["profile", "--out", "/dev/null/x"], "cannot write /dev/null/x"),
    "train: threads": (["train", "--threads", "100000"], "--threads takes a whole number from 1 to 1024"),
    "profile: rounds": (["profile", "--rounds", "0"], "--rounds takes a whole number of at least 1, got 0"),
    "profile: device": (["profile", "--device", "toaster"], "choose cpu"),
    "info: near miss": (["info", "--jsn"], "did you mean --json"),
    "info: argument": (["info", "all"], "unexpected argument 'all'"),
}


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Run a module as `python -m` does, in an empty folder; returns exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(name, *options):
        monkeypatch.setattr(sys, "argv", [name, *options])
        monkeypatch.delitem(sys.modules, f"htc_fast.{name}", raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_module(f"htc_fast.{name}", run_name="__main__", alter_sys=True)
        return end.value.code, *capsys.readouterr()

    return call


def test_all_are_there():
    assert {"train", "evaluate", "predict", "export", "info"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0 and out.startswith(f"usage: python -m htc_fast.{name}")


@pytest.mark.parametrize("case", WRONG)
def test_one_sentence_and_status_2(command, case):
    (name, *options), expected = WRONG[case]
    status, out, err = command(name, *options)
    assert status == 2 and not out
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and expected in err
    assert not list(Path.cwd().iterdir()), "a refused command leaves nothing behind"


def test_every_command_has_wrong_options():
    assert {options[0] for options, _ in WRONG.values()} >= set(COMMANDS)


@pytest.mark.slow
def test_as_a_process():
    done = subprocess.run([sys.executable, "-m", "htc_fast.predict", "--wieghts", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
