"""The loop: exact continuation, and a clean way out of trouble."""

import os
import signal

import numpy as np
import pytest
import torch

from htc_fast import UserError, cores
from htc_fast.training import checkpoint
from htc_fast.training.batches import Batches
from htc_fast.training.loggers import TensorBoard
from htc_fast.training.loop import Loop
from htc_fast.training.metrics import read_rows
from htc_fast.training.report import Report
from tests.training.tiny import Pictures, collate, tiny_batches, tiny_model, tiny_recipe


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


def uninterrupted(folder, **options):
    trainer = Loop(tiny_model(), tiny_batches(), tiny_recipe(**options), folder)
    trainer.run()
    return weights(trainer.model)


def test_threads_follow_at_every_step_and_that_is_said_once(tmp_path, monkeypatch, capsys):
    said = iter(["", "1 of 2 threads from here on.", "", "2 of 2 threads from here on."])
    monkeypatch.setattr(cores, "adapt", lambda device: next(said))
    Loop(tiny_model(), tiny_batches(), tiny_recipe(iterations=4), tmp_path).run()
    assert next(said, None) is None, "asked before each of the four steps"
    told = "".join(capsys.readouterr())
    assert "1 of 2 threads from here on." in told and "2 of 2" not in told


class Killed(Exception):
    pass


def kill_after(trainer, iterations):
    """Let the process die, as far as a test can: without a chance to save."""
    step = trainer.update

    def dying(batches):
        if trainer.at.iteration == iterations:
            raise Killed
        return step(batches)

    trainer.update = dying


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "optimizer": "adamw"}, {"amp": True, "clip": 1.0}])
def test_resume_after_a_kill_gives_the_same_weights(tmp_path, options):
    # Saved in the middle of the second epoch (5 batches each), killed later, so a step is repeated too.
    options = {"iterations": 8, "save_every": 7, **options}
    expected = uninterrupted(tmp_path / "whole", **options)
    trainer = Loop(tiny_model(), tiny_batches(), tiny_recipe(**options), tmp_path / "killed")
    kill_after(trainer, 7)
    with pytest.raises(Killed):
        trainer.run()
    resumed = Loop(tiny_model(seed=1), tiny_batches(), tiny_recipe(**options), tmp_path / "killed")
    assert resumed.resume() and resumed.at.iteration == 7
    torch.manual_seed(99)
    resumed.run()
    assert differing(expected, weights(resumed.model)) == []
    assert differing(expected, weights(tiny_model())) != []
    for name in ("whole", "killed"):
        rows = read_rows(tmp_path / name / "losses.csv")
        assert [row["iteration"] for row in rows] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_goes_on_later(tmp_path, number):
    expected, handler = uninterrupted(tmp_path / "whole"), signal.getsignal(number)
    trainer = Loop(tiny_model(), tiny_batches(), tiny_recipe(), tmp_path / "stopped")
    after_step = trainer._after_step

    def interrupted(*arguments):
        if trainer.at.iteration == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # as torchrun adds
        after_step(*arguments)

    trainer._after_step = interrupted
    assert trainer.run().iteration == 3
    assert signal.getsignal(number) == handler
    assert [path.stem for path in checkpoint.whole(tmp_path / "stopped" / "checkpoints")] == ["000003"]
    resumed = Loop(tiny_model(seed=1), tiny_batches(), tiny_recipe(), tmp_path / "stopped")
    resumed.resume()
    resumed.run()
    assert differing(expected, weights(resumed.model)) == []


def test_loss_that_is_not_finite(tmp_path):
    trainer = Loop(tiny_model(), tiny_batches(bad=7), tiny_recipe(save_every=1), tmp_path)
    with pytest.raises(UserError, match=r"not finite at iteration (\d+): .*rpn_class = nan.*picture7\.png"):
        trainer.run()
    saved = checkpoint.whole(tmp_path / "checkpoints")
    assert saved and int(saved[-1].stem) == trainer.at.iteration
    checkpoint.load(saved[-1], trainer.model)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_a_picture_that_cannot_be_read_costs_no_step(tmp_path):
    class Broken(Pictures):
        def __getitem__(self, index):
            if index == 7:
                raise UserError("picture7.png cannot be read.")
            return super().__getitem__(index)

    batches = Batches(Broken(), collate, 2, seed=1)
    trainer = Loop(tiny_model(), batches, tiny_recipe(), tmp_path)
    with pytest.raises(UserError, match="picture7"):
        trainer.run()
    assert trainer.at.iteration > 0
    assert [int(path.stem) for path in checkpoint.whole(tmp_path / "checkpoints")] == [trainer.at.iteration]


def test_metrics_that_cannot_be_written_are_one_sentence(tmp_path):
    trainer = Loop(tiny_model(), tiny_batches(), tiny_recipe(), tmp_path)
    after_step = trainer._after_step

    def full(*arguments):
        (tmp_path / "losses.csv").mkdir()
        after_step(*arguments)

    trainer._after_step = full
    with pytest.raises(UserError, match=r"cannot write .*losses\.csv .*nothing is saved yet"):
        trainer.run()


def test_half_a_row_does_not_count(tmp_path):
    (tmp_path / "losses.csv").write_text("iteration,loss,lr\n1,2.5,0.1\n2,2.25,0.1\n3,2.")
    assert read_rows(tmp_path / "losses.csv")[-1] == {"iteration": 2, "loss": 2.25, "lr": 0.1}
    Report(tmp_path, iteration=1).close()
    assert (tmp_path / "losses.csv").read_text().split() == ["iteration,loss,lr", "1,2.5,0.1"]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = Loop(tiny_model(), tiny_batches(), tiny_recipe(iterations=1), tmp_path)
    step = trainer.update

    def exploding(batches):
        result = step(batches)
        next(p for p in trainer.model.parameters() if p.requires_grad).data.fill_(float("inf"))
        return result

    trainer.update = exploding
    with pytest.raises(UserError, match="weights are not finite after iteration 1"):
        trainer.run()
    assert not checkpoint.whole(tmp_path / "checkpoints")


@pytest.mark.slow
def test_what_a_run_leaves(tmp_path):
    scores = iter([0.3, 0.1, 0.2])

    def picture(model, path, seconds):
        assert not model.training
        path.write_bytes(b"png")
        return ""

    def evaluate(model):
        assert not model.training
        return {"mask_AP": next(scores), "mask_AP50": 0.5}

    recipe = tiny_recipe(iterations=None, epochs=3, evaluate_every=1, keep=2)
    loggers = [TensorBoard()]
    Loop(tiny_model(), tiny_batches(), recipe, tmp_path, evaluate=evaluate, picture=picture, callbacks=loggers).run()
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {
        "best.safetensors",
        "best.json",
        "model.safetensors",
        "losses.csv",
        "evaluations.csv",
        "curves.png",
        "predictions.png",
        "tensorboard",
    }
    assert [row["mask_AP"] for row in read_rows(tmp_path / "evaluations.csv")] == [0.3, 0.1, 0.2]
    assert '"iteration": 5' in (tmp_path / "best.json").read_text()
    assert [path.stem for path in checkpoint.whole(tmp_path / "checkpoints")] == ["000010", "000015"]
    losses = read_rows(tmp_path / "losses.csv")
    assert len(losses) == 15 and {"semantic", "stage3_mask", "images_per_second", "memory_mb"} <= losses[0].keys()


def test_time_limit_ends_a_run(tmp_path):
    recipe = tiny_recipe(iterations=None, minutes=1 / 60)
    at = Loop(tiny_model(), tiny_batches(), recipe, tmp_path).run()
    assert at.iteration >= 1 and at.seconds < 30


def test_a_limit_that_is_far_changes_nothing(tmp_path):
    expected, seen = uninterrupted(tmp_path / "whole"), []

    def forecast(model):
        seen.append(len(model.predict([np.zeros((64, 64, 3), np.uint8)])))
        return 1.0

    limited = Loop(tiny_model(), tiny_batches(), tiny_recipe(minutes=60), tmp_path / "limited", forecast=forecast)
    limited.run()
    assert seen == [1] and differing(expected, weights(limited.model)) == []


def test_learning_falls(tmp_path):
    Loop(tiny_model(), tiny_batches(), tiny_recipe(iterations=30), tmp_path).run()
    losses = [row["loss"] for row in read_rows(tmp_path / "losses.csv")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
