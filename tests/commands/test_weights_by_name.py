"""`--weights coco` and `--weights hf-hub:owner/name`, in every command that takes weights, and in training."""

import hashlib
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from htc_fast import evaluate, export, predict
from htc_fast.commands import entry
from htc_fast.errors import UserError
from htc_fast.evaluate import EvaluationRun
from htc_fast.export import ExportRun
from htc_fast.models import zoo
from htc_fast.models.weights import public
from htc_fast.models.weights.save import weights_bytes
from htc_fast.predict import PredictionRun
from htc_fast.training import Trainer, TrainingRun
from tests.data.builder import two_pictures, write
from tests.models.test_zoo import tiny
from tests.models.weights.test_load import as_mmdetection, same
from tests.training.tiny import SMALL

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def made():
    return tiny("mask_rcnn_r50", num_classes=3, class_names=NAMES, image_size=(64, 96))


@pytest.fixture
def desk(tmp_path, monkeypatch, made):
    """A data set, a public checkpoint that was downloaded before, and the repository me/owls; the model is in both."""
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"meta": {"CLASSES": NAMES}, "state_dict": as_mmdetection(made.state_dict())}, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    (folder / "new.pth").rename(folder / f"new-{digest}.pth")
    found = public.Checkpoint(f"http://127.0.0.1:9/new-{digest}.pth", digest, 12, 40.0, 35.0, "a test", num_classes=3)
    monkeypatch.setitem(public.PUBLISHED, "mask_rcnn_r50", {"coco-1x": found})
    monkeypatch.setitem(zoo.MODELS, "mask_rcnn_r50", zoo.config("mask_rcnn_r50", backbone="test_resnet"))
    (tmp_path / "pushed.safetensors").write_bytes(weights_bytes(made))
    repository = {("me/owls", "model.safetensors", None): tmp_path / "pushed.safetensors"}
    fetched = lambda name, file, revision: str(repository[name, file, revision])  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched, raising=False)
    return tmp_path


@pytest.mark.parametrize("command", [evaluate, predict])
@pytest.mark.parametrize(
    "weights",
    [
        ("coco", "--model", "mask_rcnn_r50"),
        ("hf-hub:me/owls",),
        ("coco-1x", "hf-hub:me/owls", "--model", "mask_rcnn_r50"),
    ],
    ids=" ".join,
)
def test_the_commands(command, weights, desk, monkeypatch, capsys):
    where = ("--data", "data") if command is evaluate else ("data/val2017", "--score", "0")
    given = [*where, "--out", "out", "--device", "cpu", "--image-size", "64", "96", "--weights", *weights]
    monkeypatch.setattr("sys.argv", [command.__name__, *given])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    assert end.value.code == 0, capsys.readouterr().err
    assert len(
        json.loads(
            (desk / "out" / "metrics.json" if command is evaluate else desk / "out" / "results.json").read_text()
        )
    )


def test_what_the_runs_load(desk, made):
    assert same(made, EvaluationRun(weights="coco", model="mask_rcnn_r50", data="data", device="cpu").load())
    run = ExportRun(weights="hf-hub:me/owls", device="cpu")
    assert run.weights == Path("hf-hub:me/owls") and same(made, run.detector(run.weights))
    assert same(made, PredictionRun(weights=["hf-hub:me/owls"], pictures=["a.png"], device="cpu").load())
    # Behind --weights, a folder of pictures may be called so.
    (desk / "coco").mkdir()
    assert PredictionRun(weights=["coco", "coco"]).pictures == ("coco",)
    assert PredictionRun(weights=["hf-hub:me/owls", "hf-hub:me/owls@v1", "a.png"]).pictures == ("a.png",)


@pytest.mark.parametrize(
    "command, words, sentence",
    [
        (evaluate, ["--data", "data"], "name one with --model (in Python: name=), such as htc_r50"),
        (predict, ["data/val2017", "--model", "htc_r50_nosem"], "nobody publishes weights of htc_r50_nosem for COCO"),
        (export, ["--model", "htc_r5"], "unknown model 'htc_r5': did you mean htc_r50"),
    ],
)
def test_refusals(command, words, sentence, desk, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [command.__name__, *words, "--weights", "coco", "--device", "cpu"])
    with pytest.raises(SystemExit, match="2"):
        entry.run(command.main)
    out, err = capsys.readouterr()
    assert sentence in err and err.startswith("error: ") and err.count("\n") == 1 and not out


@pytest.mark.parametrize("weights", ["coco", "hf-hub:me/owls"])
def test_training_starts_from_it(weights, desk, made, capsys):
    for split in ("train", "val"):
        write(desk / "two", two_pictures(), split)
    small = {"backbone": "test_resnet", "pretrained": False, "image_size": (64, 96), "set": SMALL, "iterations": 1}
    run = TrainingRun(
        data=desk / "two", model="mask_rcnn_r50", weights=weights, out=desk / "run", device="cpu", **small
    )
    trainer = Trainer(run)
    err = capsys.readouterr().err
    assert f"{weights}: " in err and "classes by name" in err
    own, others = trainer.model.state_dict(), made.state_dict()
    assert all(torch.equal(own[key], others[key]) for key in own if key.startswith(("backbone.", "fpn.", "rpn.")))
    with pytest.raises(UserError, match="nobody publishes weights of htc_r50_nosem"):
        TrainingRun(weights="coco", model="htc_r50_nosem")
