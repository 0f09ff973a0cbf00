"""The paper's last step of training: a trained detector goes on with guided anchors, three epochs, a rate for each."""

import pytest
import torch

from htc_fast.detector import create_model, load
from htc_fast.errors import UserError
from htc_fast.training import Trainer, TrainingRun
from htc_fast.training.checkpoint import weights_bytes
from htc_fast.training.metrics import read_rows
from htc_fast.training.optimizer import Schedule
from htc_fast.training.report import short_terms
from tests.data.builder import two_pictures, write
from tests.training.test_run import words
from tests.training.tiny import SMALL

THREE = {"epochs": 3, "steps": (0.3334, 0.6667)}


def test_a_rate_for_each_epoch():
    assert words("--epochs", 3, "--steps", 0.3334, 0.6667) == THREE
    recipe = TrainingRun(**THREE, warmup=0, batch_size=16).plan()
    rates = [recipe.schedule(0, share) for share in (0, 0.33, 0.34, 0.66, 0.67, 1)]
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])
    assert TrainingRun().plan().schedule.steps == Schedule.steps == (0.8, 0.95)
    assert TrainingRun(steps=[0.5]).plan().schedule.steps == (0.5,)


def test_steps_that_make_no_sense():
    for steps in ((0.9, 0.5), (0.0, 0.5), (-1.0,), (0.5, float("nan")), (float("inf"),)):
        with pytest.raises(UserError, match="--steps takes shares of the run above 0, the smaller first, got "):
            TrainingRun(steps=steps)
    with pytest.raises(UserError, match="--steps takes a list of float, got 3"):
        TrainingRun(steps=3)
    with pytest.raises(UserError, match="--steps belong to --schedule step"):
        TrainingRun.sample(steps=(0.5,))


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "data", two_pictures(), split)
    return tmp_path / "data"


def fine_tune(root, **options):
    small = {"backbone": "test_resnet", "pretrained": False, "image_size": (64, 96), "set": SMALL, "lr": 1e-3}
    return TrainingRun(**{"data": root, "model": "htc_r50_ga", **small, **THREE, "iterations": 1, **options})


def trained(folder, name, classes):
    """A file of a detector whose every weight is 0.01."""
    model = create_model(name, num_classes=classes, backbone="test_resnet", semantic_classes=1, **SMALL)
    for one in model.parameters():
        torch.nn.init.constant_(one, 0.01)
    (folder / f"{name}.safetensors").write_bytes(weights_bytes(model))
    return folder / f"{name}.safetensors"


def test_guided_anchors_start_fresh_in_a_trained_detector(root, tmp_path, capsys):
    classes = len(Trainer(fine_tune(root, semantic="none", out=tmp_path / "none")).train.classes)
    file = trained(tmp_path, "htc_r50_nosem", classes)
    trainer = Trainer(fine_tune(root, weights=file, out=tmp_path / "run", semantic="none"))
    assert "its RPN has fixed anchors, so the one that guides them starts fresh" in capsys.readouterr().err
    own = dict(trainer.model.named_parameters())
    assert (own["fpn.lateral.0.weight"] == 0.01).all() and (own["box_heads.2.deltas.weight"] == 0.01).all()
    assert not any((one == 0.01).any() for name, one in own.items() if name.startswith("rpn."))
    assert own["rpn.location.bias"].item() == pytest.approx(-4.5951, abs=1e-4)

    assert trainer.run().config.rpn.guided
    (row,) = read_rows(tmp_path / "run" / "losses.csv")
    assert row["rpn_location"] > 0 and "rpn_shape" in row
    assert load(tmp_path / "run" / "model.safetensors").config == trainer.model.config
    Trainer(fine_tune(root, out=tmp_path / "run", semantic="none", steps=(0.5,), iterations=2, resume=True)).run()
    assert "steps was (0.3334, 0.6667) and is now (0.5,)" in capsys.readouterr().err


def test_a_guided_file_keeps_its_anchors(root, tmp_path, capsys):
    classes = len(Trainer(fine_tune(root, semantic="none", out=tmp_path / "none")).train.classes)
    file = trained(tmp_path, "htc_r50_ga", classes)
    with pytest.raises(UserError, match="another architecture than htc_r50_nosem"):
        Trainer(fine_tune(root, weights=file, model="htc_r50_nosem", out=tmp_path / "plain"))
    model = Trainer(fine_tune(root, weights=file, out=tmp_path / "run", semantic="none")).model
    assert (model.rpn.location.weight == 0.01).all() and "fresh" not in capsys.readouterr().err


def test_the_progress_line_has_the_new_losses():
    numbers = {"rpn_class": 0.5, "rpn_box": 0.25, "rpn_location": 0.125, "rpn_shape": 1.0}
    assert short_terms(numbers) == "rpn 0.50/0.25 anchors 0.12/1.00"
