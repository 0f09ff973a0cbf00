"""`python -m htc_fast.train` as its users meet it: the default run learns, bad options are one sentence."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from htc_fast.data.sample import make_sample_dataset


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache of its own, so that the sample is made as on a fresh machine."""
    return tmp_path_factory.mktemp("cache")


def command(name, home, *options):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "MPLBACKEND": "Agg"}
    environment.pop("TRITON_INTERPRET", None)
    call = [sys.executable, "-m", f"htc_fast.{name}", *map(str, options)]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """The default run, ended after a fifth of its steps: (what it printed, its folder)."""
    out = tmp_path_factory.mktemp("runs") / "sample"
    done = command("train", home, "--iterations", 150, "--evaluate-every", 0, "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stderr, out


def test_default_run_learns(run):
    with open(run[1] / "evaluations.csv") as file:
        last = list(csv.DictReader(file))[-1]
    # Untrained weights score 0.00; a fifth of the default run measured 0.42 and 0.28.
    assert float(last["box_AP50"]) > 0.15 and float(last["mask_AP50"]) > 0.1


def test_default_run_leaves(run):
    printed, out = run
    for name in ("model.safetensors", "losses.csv", "evaluations.csv", "curves.png", "predictions.png"):
        assert (out / name).stat().st_size > 200, name
    assert list((out / "tensorboard").iterdir()) and list((out / "checkpoints").iterdir())
    assert "240 pictures to train on, 60 held out, 10 classes" in printed


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


def test_interrupt_saves_and_resume_goes_on(run, home, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    options = ["--iterations", "400", "--evaluate-every", "0", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "htc_fast.train", *options], env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "losses.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "--resume" in printed and "Traceback" not in printed
    done = command("train", home, "--resume", "--iterations", 12, "--evaluate-every", 0, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "losses.csv") as file:
        iterations = [int(row["iteration"]) for row in csv.DictReader(file)]
    assert iterations == sorted(set(iterations))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "htc_r5"], ["htc_r5", "htc_r50"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--set", "chanels=64"], ["chanels", "channels"]),
        (["--optimizer", "sdg"], ["sdg", "sgd"]),
        (["--backbone", "resnet_50"], ["resnet_50", "resnet50"]),
        (["--weights", "missing.pth"], ["missing.pth"]),
        (["--device", "cuda:9"], ["cuda:9"]),
        (["--batch-size", "0"], ["batch"]),
        (["--nothing"], ["--nothing"]),
    ],
    ids=lambda value: value[0].lstrip("-") if value and value[0].startswith("-") else "",
)
def test_bad_option_is_one_sentence(options, words, home, tmp_path):
    done = command("train", home, *options, "--out", tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ") and all(word in message for word in words), done.stderr
