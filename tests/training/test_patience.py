"""Early stopping: a run ends after evaluations in a row without a better mask AP, also across interruptions."""

import json

import pytest

from htc_fast import UserError
from htc_fast.training import Trainer, TrainingRun, checkpoint
from htc_fast.training.patience import Patience, waited
from htc_fast.training.report import Report
from tests.data.builder import write
from tests.training.clock import timed_loop
from tests.training.test_run import small_run


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    monkeypatch.setattr(Report, "draw", lambda self: None)


def scored(folder, scores, patience=2, epochs=8, **options):
    """A loop that is evaluated after each epoch of five steps; its scores are of its epochs."""
    loop = timed_loop(folder, lambda step: 1.0, length=5, epochs=epochs, evaluate_every=1, patience=patience, **options)

    def evaluate(model):
        loop.evaluated.append(loop.at.iteration)
        return {"mask_AP": scores[loop.at.epoch - 1]}

    loop.evaluate = evaluate
    return loop


def test_what_counts_as_better():
    assert waited([], 0.001) == ((0, float("-inf")), 0)
    assert waited([(5, 0.1), (10, 0.1005), (15, 0.1009)], 0.001) == ((5, 0.1), 2)
    # Steps that are each too small add up, as they are compared with the last that counted.
    assert waited([(5, 0.1), (10, 0.1008), (15, 0.1016), (20, 0.0)], 0.001) == ((15, 0.1016), 1)
    assert waited([(5, 0.1), (10, 0.1)], 0.0) == ((5, 0.1), 1) and waited([(5, -1.0)], 0.5) == ((5, -1.0), 0)


def test_a_run_ends_and_says_why(tmp_path, capsys):
    loop = scored(tmp_path, [0.1, 0.3, 0.3005, 0.2, 0.9])
    at = loop.run()
    assert (at.iteration, at.epoch) == (20, 4) and loop.evaluated == [5, 10, 15, 20]
    assert (
        "ended early: 2 evaluations in a row found no mask AP more than 0.001 above the 0.300 of iteration 10 "
        "(patience 2); best.safetensors has the best weights"
    ) in capsys.readouterr().out
    assert checkpoint.iteration_of(tmp_path / "model.safetensors") == 20
    assert json.loads((tmp_path / "best.json").read_text())["iteration"] == 15


def test_without_patience_nothing_ends(tmp_path):
    assert scored(tmp_path, [0.5] * 8, patience=None).run().epoch == 8
    assert not (tmp_path / "patience.json").exists()


def test_the_rate_is_that_of_the_whole_run(tmp_path):
    cut, whole = scored(tmp_path / "cut", [0.5] * 8), scored(tmp_path / "whole", [0.5] * 8, patience=None)
    cut.run()
    whole.run()
    assert cut.rates == whole.rates[:15] and len(whole.rates) == 40


def test_going_on_counts_as_if_never_stopped(tmp_path, capsys):
    scores = [0.3, 0.2, 0.2, 0.2, 0.2]
    scored(tmp_path, scores, patience=3, stop=12).run()
    assert json.loads((tmp_path / "patience.json").read_text())["scores"] == [[5, 0.3], [10, 0.2]]
    loop = scored(tmp_path, scores, patience=3)
    loop.resume()
    assert loop.run().iteration == 20 and loop.evaluated == [15, 20]
    over = scored(tmp_path, scores, patience=3)
    over.resume()
    assert over.run().iteration == 20 and over.evaluated == []
    assert "patience is 3: this run had finished, with its results" in capsys.readouterr().err
    more = scored(tmp_path, scores, patience=4)
    more.resume()
    assert more.run().iteration == 25


def test_patience_that_comes_with_going_on_knows_the_best_so_far(tmp_path, capsys):
    # Above the 0.2 of epoch 2 is not above the 0.5 of epoch 1.
    scores = [0.5, 0.2, 0.3, 0.4, 0.45]
    scored(tmp_path, scores, patience=None, stop=12).run()
    loop = scored(tmp_path, scores, patience=2)
    loop.resume()
    assert loop.run().iteration == 20 and loop.evaluated == [15, 20]
    assert "above the 0.500 of iteration 5 (patience 2)" in capsys.readouterr().out


def test_weights_that_nobody_has_scored_are_evaluated_at_the_end(tmp_path):
    scored(tmp_path, [0.3] * 8, patience=3, stop=12).run()
    loop = scored(tmp_path, [0.3] * 8, patience=1)
    loop.resume()
    assert loop.run().iteration == 12 and loop.evaluated == [12]


def test_killed_before_its_last_files_it_ends_without_training(tmp_path, capsys):
    scored(tmp_path, [0.3] * 8).run()
    (tmp_path / "model.safetensors").unlink()
    loop = scored(tmp_path, [0.3] * 8)
    loop.resume()
    assert loop.run().iteration == 15 and loop.evaluated == [] and loop.rates == []
    assert "patience is 2: it ends as it is" in capsys.readouterr().err
    assert checkpoint.iteration_of(tmp_path / "model.safetensors") == 15


def test_scores_of_other_pictures_or_beyond_the_checkpoint_do_not_count(tmp_path):
    kept = Patience(tmp_path, 2, 0.0)
    for step in (5, 10, 15):
        kept.add(step, {"mask_AP": 0.5}, "12 pictures")
    assert kept.over
    for step, held_out, left in ((15, "12 pictures", 3), (10, "12 pictures", 2), (15, "7 pictures", 0)):
        again = Patience(tmp_path, 2, 0.0)
        again.resume(step, held_out)
        assert len(again.scores) == left and again.over == (left == 3)
    (tmp_path / "patience.json").write_text('{"scores": 3}')
    again.resume(15, "12 pictures")
    assert again.scores == []


def test_patience_needs_evaluations(tmp_path):
    with pytest.raises(UserError, match="--patience takes a whole number of at least 1, got 0"):
        TrainingRun(patience=0)
    with pytest.raises(UserError, match="--min-delta takes a finite number of at least 0, got -1"):
        TrainingRun(patience=1, min_delta=-1)
    with pytest.raises(UserError, match="--patience counts evaluations in between: give --evaluate-every"):
        TrainingRun(patience=1, evaluate_every=0)
    write(tmp_path, split="train")
    places = {"train_json": tmp_path / "annotations" / "instances_train2017.json"}
    run = small_run(None, tmp_path / "run", **places, train_images=tmp_path / "train2017", patience=1)
    with pytest.raises(UserError, match="--patience needs held-out pictures"):
        Trainer(run)
