"""`python -m htc_fast.train` as its users meet it: the default run learns, bad options are one sentence."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from htc_fast.data import CocoDataset
from htc_fast.data.sample import make_sample_dataset
from htc_fast.detector import load
from htc_fast.evaluation import evaluate
from htc_fast.inference import Framed
from htc_fast.inference.onnx import OnnxDetector, export_onnx

# The default run on pictures and heads of a quarter of the work, so that a slow machine ends it too; in fp32, because
# what a processor does in bf16 differs; in one thread, because two that share their cores with others take ten times
# as long, waiting for each other. No time limit below is near what that takes.
SMALL = (
    "--image-size 128 --crop 128 --warmup 20 --lr 5e-4 --evaluate-every 0 --no-amp --threads 1 --set channels=48 "
    "box_channels=128 samples=48 rpn_train_proposals=100 rpn_proposals=100"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache of its own, so that the sample is made as on a fresh machine."""
    return tmp_path_factory.mktemp("cache")


def command(name, home, *options):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    call = [sys.executable, "-m", f"htc_fast.{name}", *map(str, options)]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """The default run made small: (what it printed, its folder)."""
    out = tmp_path_factory.mktemp("runs") / "sample"
    done = command("train", home, *SMALL, "--iterations", 100, "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stderr, out


@pytest.mark.slow
def test_default_run_learns(run):
    with open(run[1] / "evaluations.csv") as file:
        last = list(csv.DictReader(file))[-1]
    # Untrained weights score 0.00; 0.29 and 0.18 were measured.
    assert float(last["box_AP50"]) > 0.1 and float(last["mask_AP50"]) > 0.05


@pytest.mark.slow
def test_default_run_leaves(run):
    printed, out = run
    for name in ("model.safetensors", "losses.csv", "evaluations.csv", "curves.png", "predictions.png"):
        assert (out / name).stat().st_size > 200, name
    assert list((out / "tensorboard").iterdir()) and list((out / "checkpoints").iterdir())
    assert "240 pictures to train on, 60 held out, 10 classes" in printed


@pytest.mark.slow
def test_as_an_onnx_file_it_scores_the_same(run, home, tmp_path):
    model = load(run[1] / "model.safetensors", device="cpu")
    dataset = CocoDataset(make_sample_dataset(next((home / "htc_fast").glob("sample-*"))), "val")
    export_onnx(model, tmp_path / "model.onnx", image_size=(128, 128), uint8_input=True)
    wanted = evaluate(Framed(model, (128, 128)), dataset, progress=False)
    found = evaluate(OnnxDetector(tmp_path / "model.onnx"), dataset, progress=False)
    assert wanted["box_AP50"] > 0.1 and wanted["mask_AP50"] > 0.05
    assert {name: found[name] for name in ("box_AP", "mask_AP", "box_AP50", "mask_AP50")} == pytest.approx(
        {name: wanted[name] for name in ("box_AP", "mask_AP", "box_AP50", "mask_AP50")}, rel=0, abs=5e-4
    )


@pytest.mark.slow
def test_its_checkpoint_predicts_and_evaluates(run, home, tmp_path):
    weights, data = run[1] / "model.safetensors", make_sample_dataset(next((home / "htc_fast").glob("sample-*")))
    done = command(
        "evaluate", home, "--weights", weights, "--data", data, "--limit", 6, "--optimize", "--out", tmp_path / "scores"
    )
    assert done.returncode == 0 and "joke book" in done.stdout
    pictures = sorted((data / "val2017").iterdir())[:2]
    done = command(
        "predict", home, *pictures, "--weights", weights, "--score", 0.1, "--optimize", "--out", tmp_path / "found"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "found").glob("**/*.jpg")) + list((tmp_path / "found").glob("**/*.png"))) == 2


def few(home, folder):
    """The held-out part's annotations, cut to two pictures."""
    root = next((home / "htc_fast").glob("sample-*"))
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:2]
    shown = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in shown]
    (folder / "few.json").write_text(json.dumps(content))
    return folder / "few.json"


@pytest.mark.slow
def test_interrupt_saves_and_resume_goes_on(run, home, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    options = [*SMALL, "--val-json", few(home, tmp_path), "--out", tmp_path / "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "htc_fast.train", *map(str, options), "--iterations", "4000"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 900
    while not (tmp_path / "run" / "losses.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=900)[0]
    assert process.returncode == 130 and "--resume" in printed and "Traceback" not in printed, printed
    done = command("train", home, *options, "--resume", "--iterations", 12)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "losses.csv") as file:
        iterations = [int(row["iteration"]) for row in csv.DictReader(file)]
    assert iterations == sorted(set(iterations))


@pytest.mark.slow
def test_missing_weights_are_one_sentence(tmp_path):
    # Wrong options that need no data: tests/commands/test_options.py.
    done = command("train", tmp_path / "cache", "--weights", "missing.pth", "--out", tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and "missing.pth" in message, done.stderr
    assert not list(tmp_path.rglob("sample-*"))  # told before pictures are made
