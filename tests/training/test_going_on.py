"""A run ends at its epochs, keeps its own best, and says what differs when it goes on."""

import json

import pytest
import torch

from htc_fast import UserError
from htc_fast.training import Trainer, checkpoint
from htc_fast.training.distributed import World
from htc_fast.training.folder import choose_folder, held
from htc_fast.training.loop import Loop
from htc_fast.training.recipe import Position
from htc_fast.training.report import Report
from htc_fast.training.run import TrainingRun
from tests.data.builder import two_pictures, write
from tests.training.clock import timed_loop
from tests.training.test_run import small_run
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


@pytest.mark.parametrize(
    ("epochs", "accumulate", "steps", "end"),
    [
        (1, 100, 1, (1, 0)),
        (4, 50, 1, (4, 0)),
        (2, 3, 7, (2, 0)),
        (2.5, 4, 7, (2, 5)),
        (0.7, 1, 7, (0, 7)),
        (0.33, 3, 2, (0, 4)),
        (0.01, 5, 1, (0, 1)),
    ],
)
def test_a_run_ends_at_its_epochs(tmp_path, epochs, accumulate, steps, end):
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=epochs, accumulate=accumulate)
    at = loop.run()
    assert (at.iteration, (at.epoch, at.batch)) == (steps, end)


def test_going_on_with_more_batches_a_step_ends_there_too(tmp_path):
    timed_loop(tmp_path, lambda step: 1.0, epochs=4, stop=35).run()
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=4, accumulate=50)
    loop.resume()
    at = loop.run()
    assert (at.iteration, at.epoch, at.batch) == (36, 4, 0)


def test_the_last_step_takes_the_mean_over_what_is_left(tmp_path):
    def gradients(accumulate):
        recipe = tiny_recipe(iterations=None, epochs=1, accumulate=accumulate)
        loop = Loop(tiny_model(), tiny_batches(batch_size=5), recipe, tmp_path)
        found = {}

        def keep(*_, **__):
            found.update({name: p.grad.clone() for name, p in loop.model.named_parameters() if p.grad is not None})

        loop.optimizer.register_step_pre_hook(keep)
        terms, seen = loop.update(loop.batches.stream())
        return found, terms, seen

    (whole, terms, seen), (more, more_terms, more_seen) = gradients(2), gradients(7)
    assert seen == more_seen == 10 and len(whole) > 20
    assert all(torch.equal(whole[name], more[name]) for name in whole)
    assert all(torch.equal(terms[name], more_terms[name]) for name in terms)


def test_steps_without_accumulation_are_of_one_batch():
    recipe, places = tiny_recipe(epochs=3, iterations=None), ((0, 0), (2, 9), (3, 0))
    assert [recipe.taken(Position(epoch=epoch, batch=batch), 10) for epoch, batch in places] == [1] * 3
    assert tiny_recipe(epochs=1e308, iterations=None, accumulate=4).taken(Position(), 10) == 4


def best(folder):
    return json.loads((folder / "best.json").read_text())


def scored(folder, score, held_out="12 pictures", **options):
    loop = timed_loop(folder, lambda step: 1.0, **{"epochs": 1, **options})
    loop.evaluate, loop.about["held-out data"] = lambda model: {"mask_AP": score}, held_out
    return loop


def test_the_best_of_another_run_is_not_this_one_s(tmp_path, capsys):
    scored(tmp_path, 0.9).run()
    assert best(tmp_path) == {"iteration": 10, "held_out": "12 pictures", "mask_AP": 0.9}
    scored(tmp_path, 0.3).run()
    assert best(tmp_path)["mask_AP"] == 0.3
    loop = scored(tmp_path, 0.2, epochs=2)
    loop.resume()
    loop.run()
    assert best(tmp_path)["mask_AP"] == 0.3 and "does not compare" not in capsys.readouterr().out
    loop = scored(tmp_path, 0.1, held_out="7 pictures", epochs=3)
    loop.resume()
    loop.run()
    assert (best(tmp_path)["mask_AP"], best(tmp_path)["iteration"]) == (0.1, 30)
    said = capsys.readouterr()
    assert "best.safetensors of so far (mask AP 0.300 on other held-out pictures) does not compare" in said.out
    assert "held-out data was 12 pictures and is now 7 pictures" in said.err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mask_AP": null}'])
def test_scores_that_cannot_be_read_do_not_count(tmp_path, text):
    scored(tmp_path, 0.9, stop=5).run()
    (tmp_path / "best.json").write_text(text)
    loop = scored(tmp_path, 0.3)
    loop.resume()
    loop.run()
    assert best(tmp_path)["mask_AP"] == 0.3


@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors", "best.json"])
def test_results_without_checkpoints_are_not_written_over(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "train"
    folder.mkdir(parents=True)
    (folder / name).touch()
    with pytest.raises(UserError, match="holds a run already"):
        choose_folder(TrainingRun(data="x", out=folder), World())
    with pytest.raises(UserError, match=rf"{name} of a run, but none of its checkpoints.*give another --out") as error:
        choose_folder(TrainingRun(data="x", out=folder, resume=True), World())
    assert (f"--weights {folder / name}" in str(error.value)) == name.endswith(".safetensors")
    assert choose_folder(TrainingRun(data="x"), World()).name == "train-2"


def test_a_folder_in_use_is_said_before_anything_is_loaded(tmp_path):
    for resume in (True, False):
        with held(tmp_path), pytest.raises(UserError, match="another run is writing to"):
            choose_folder(TrainingRun(data="x", out=tmp_path, resume=resume), World())
    assert choose_folder(TrainingRun(data="x", out=tmp_path), World()) == tmp_path


def test_a_folder_that_takes_no_files_is_said_first():
    with pytest.raises(UserError, match=r"results cannot go to /proc/x, as /proc may not be written \(.*another --out"):
        choose_folder(TrainingRun(data="x", out="/proc/x"), World())


def test_room_is_advised_where_there_is_a_checkpoint(tmp_path):
    assert checkpoint.remedy(tmp_path / "losses.csv").startswith("nothing is saved yet")
    (tmp_path / "checkpoints").mkdir()
    for suffix in ("state", "safetensors"):
        (tmp_path / "checkpoints" / f"000003.{suffix}").touch()
    for path in (tmp_path, tmp_path / "losses.csv", tmp_path / "checkpoints" / "000004.state"):
        assert checkpoint.remedy(path).startswith("the previous checkpoint is intact")
    damaged = checkpoint.unusable(tmp_path / "checkpoints" / "000007.safetensors", "it is damaged")
    assert "delete both files, 000007.safetensors and 000007.state, to continue from the one before, 000003." in str(
        damaged
    )


def test_all_that_differs_is_said(tmp_path, capsys):
    """Where the number of batches tells nothing."""
    for split in ("train", "val"):
        write(tmp_path, split=split)
    Trainer(small_run(tmp_path, tmp_path / "run", iterations=1, workers=0, batch_size=4)).run()
    content = two_pictures()
    for one in content["images"]:
        one["file_name"] = f"other{one['file_name']}"
    write(tmp_path, content, split="train")
    capsys.readouterr()
    changes = {"scales": (0.5, 1.0), "flip": "none", "turn": True, "crop": 64, "keep_empty": True}
    changes |= {"train_sizes": (40, 60, 70), "batch_size": 5, "iterations": 2, "resume": True}
    Trainer(small_run(tmp_path, tmp_path / "run", workers=0, **changes)).run()
    said = capsys.readouterr().err
    for sentence in (
        "batch_size was 4 and is now 5",
        "flip was horizontal and is now none",
        "scales was (1.0, 1.0) and is now (0.5, 1.0)",
        "turn was False and is now True",
        "crop was not set and is now 64",
        "keep_empty was False and is now True",
        "train_sizes was not set and is now [40, 60, 70]",
        "training data was 2 pictures (checksum ",
    ):
        assert sentence in said
    assert "held-out data" not in said and "semantic maps" not in said and "an epoch is" not in said


NUMBERS = {
    "batch_size": (65_537, "--batch-size takes a whole number from 1 to 65536, got 65537"),
    "workers": (10**6, "--workers takes a whole number from 0 to 4096"),
    "seed": (99999999999999999999999, "--seed takes a whole number from .* to 9223372036854775807"),
    "accumulate": (10**400, "--accumulate takes a whole number from 1 to"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_beyond_sense_are_one_sentence(name):
    value, sentence = NUMBERS[name]
    with pytest.raises(UserError, match=sentence):
        TrainingRun(**{name: value})
    assert TrainingRun(batch_size=65_536, seed=2**63 - 1).seed == 2**63 - 1


def test_the_warm_up_is_of_a_whole_number_of_steps(tmp_path, capsys):
    for split in ("train", "val"):
        write(tmp_path, split=split)
    Trainer(small_run(tmp_path, tmp_path / "run", epochs=1, accumulate=50, warmup=2)).run()
    said = capsys.readouterr().err
    assert "the warm-up is 2 of 1 steps" in said
    assert "epoch 1 it 1" in said and "epoch 2" not in said


def test_empty_pictures_alone_are_no_training_data(tmp_path):
    content = {**two_pictures(), "annotations": []}
    for split in ("train", "val"):
        write(tmp_path, content, split=split)
    with pytest.raises(UserError, match=r"leaves nothing to train on.*\(--keep-empty\) teach something only beside"):
        Trainer(small_run(tmp_path, tmp_path / "run", keep_empty=True))
