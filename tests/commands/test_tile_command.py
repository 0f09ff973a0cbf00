"""--tile of predict, evaluate and train."""

import json

import numpy as np
import pytest
from PIL import Image

from htc_fast import UserError
from htc_fast import evaluate as evaluation
from htc_fast import predict as prediction
from htc_fast.commands import network
from htc_fast.training.run import TrainingRun
from htc_fast.training.trainer import make_config, make_datasets
from tests.data.builder import CATEGORIES, image, instance, write
from tests.inference.fake import Fake


@pytest.fixture(autouse=True)
def model(monkeypatch):
    made = Fake()
    monkeypatch.setattr(network, "load", lambda *_, **__: made)
    return made


def test_predict(tmp_path, model, monkeypatch, capsys):
    path = tmp_path / "5.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 180, 3), dtype=np.uint8)).save(path)
    monkeypatch.setattr(prediction, "LARGEST_OVERLAY", 70)
    run = prediction.PredictionRun(
        pictures=(str(path),), weights=("w",), tile=80, overlap=0.25, image_size=(64,), out=tmp_path / "out", score=0.5
    )
    assert prediction.predict(run) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    # 2 x 3 tiles, in each of which the middle half is an object.
    assert [sizes.tolist() for _, sizes in model.seen] == [[[64, 64]]] * 6
    assert sorted(one["bbox"] for one in results) == [[x, y, 40, 40] for x in (20, 70, 120) for y in (20, 40)]
    assert {tuple(one["segmentation"]["size"]) for one in results} == {(100, 180)}
    assert Image.open(tmp_path / "out" / "5.jpg").size == (60, 34)
    assert "overlays of more than 70 pixels a side are drawn smaller" in capsys.readouterr().err


def test_evaluate(tmp_path, model):
    write(tmp_path)
    run = evaluation.EvaluationRun(data=tmp_path, weights=("w",), tile=40, image_size=(64,), out=tmp_path / "out")
    report = evaluation.evaluate(run)
    assert report["ensemble"]["pictures"] == 2 and 0 <= report["ensemble"]["metrics"]["mask_AP"] < 1
    # 64 x 48 pixels are 2 x 2 tiles, and 40 x 72 are 2.
    assert len(model.seen) == 4 + 2


def test_options_that_make_no_sense():
    with pytest.raises(UserError, match="give --tile too"):
        prediction.PredictionRun(pictures=("a",), weights=("w",), overlap=0.3)
    with pytest.raises(UserError, match="--tile takes a whole number from 32"):
        prediction.PredictionRun(pictures=("a",), weights=("w",), tile=8)
    with pytest.raises(UserError, match="--tile takes a whole number of at least 32"):
        TrainingRun(tile=8)


def test_train(tmp_path):
    write(tmp_path, split="train")
    write(tmp_path)
    run = TrainingRun(data=tmp_path, tile=40, image_size=(64,))
    train, val = make_datasets(run, make_config(run))
    assert train.tile == val.tile == 40 and train[0]["image"].shape == (3, 64, 64)


def test_train_says_how_little_of_large_pictures_an_epoch_shows(tmp_path, capsys):
    for split in ("train", "val"):
        content = {
            "images": [image(5, 300, 130), image(6, 40, 40)],
            "annotations": [instance(5, 3, 20, 20, 12, 10), instance(6, 3, 5, 5, 12, 10)],
            "categories": CATEGORIES,
        }
        write(tmp_path, content, split)
    for side in (64, 150):
        run = TrainingRun(data=tmp_path, tile=side, image_size=(64,))
        make_datasets(run, make_config(run))
    said = capsys.readouterr().err
    assert "an epoch takes one window of each picture, 2 of some 16 that they hold" in said
    assert said.count("an epoch takes one window") == 1
