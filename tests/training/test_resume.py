"""Going on with other settings: to the same end, and nothing differs without a word."""

import json
import os
import signal
from dataclasses import asdict, replace

import pytest
import safetensors.torch
import torch

from htc_fast import UserError
from htc_fast.detector import create_model
from htc_fast.training import checkpoint, resume
from htc_fast.training.report import Report
from tests.training.clock import timed_loop
from tests.training.tiny import tiny_model, tiny_recipe


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


def part(folder, stop, **options):
    """A run of 4 epochs of 10 pictures, stopped after so many steps."""
    loop = timed_loop(folder, lambda step: 1.0, stop=stop, **{"epochs": 4, **options})
    loop.run()
    return loop


def rest(folder, **options):
    """The loop that goes on there."""
    loop = timed_loop(folder, lambda step: 1.0, **{"epochs": 4, **options})
    assert loop.resume()
    return loop


def test_every_name_that_is_compared_is_a_field():
    options = resume._flat(asdict(tiny_model().config)).keys() | resume._flat(asdict(tiny_recipe())).keys()
    assert (resume.FREE | resume.OPTIONS.keys() | resume.QUIET | resume.LENGTH) - options == set()


@pytest.mark.parametrize("stop", [20, 27])
@pytest.mark.parametrize("batch_size", [2, 3, 4, 10, 30])
def test_larger_batches_end_at_the_last_epoch(tmp_path, capsys, stop, batch_size):
    part(tmp_path, stop)
    loop = rest(tmp_path, batch_size=batch_size)
    batches = -(-10 // batch_size)
    assert loop.at.epoch + loop.at.batch / batches == pytest.approx(stop / 10, abs=0.5 / batches)
    said = capsys.readouterr().err
    assert said.count(f"an epoch is {batches} batches in each of 1 processes, and was 10 in each of 1") == 1
    at = loop.run()
    assert (at.epoch, at.batch, at.lead) == (4, 0, 0.0) and at.iteration > stop
    assert loop.rates[-1] == pytest.approx(5e-5 if batches > 4 else loop.rates[-1])


@pytest.mark.parametrize("stop", [6, 7])
def test_smaller_batches_end_at_the_last_epoch(tmp_path, stop):
    part(tmp_path, stop, batch_size=4)
    loop = rest(tmp_path, batch_size=1)
    assert (loop.at.epoch, loop.at.batch) == {6: (2, 0), 7: (2, 3)}[stop]
    at = loop.run()
    assert (at.epoch, at.batch) == (4, 0) and len(loop.rates) == {6: 20, 7: 17}[stop]


def test_a_data_set_that_grew(tmp_path):
    part(tmp_path, 25)
    loop = rest(tmp_path, length=24)
    assert (loop.at.epoch, loop.at.batch) == (2, 12)
    assert (loop.run().epoch, loop.at.batch, len(loop.rates)) == (4, 0, 36)


def test_accumulation_counts_batches(tmp_path, capsys):
    part(tmp_path, 20)
    loop = rest(tmp_path, accumulate=3, evaluate_every=1)
    assert "going on with other settings than so far: accumulate was 1 and is now 3." in capsys.readouterr().err
    at = loop.run()
    # The last step takes the two batches that are left.
    assert at.iteration == 27 and (at.epoch, at.batch) == (4, 0)
    assert loop.evaluated == [24, 27]


def test_no_end_of_an_epoch_is_jumped_over(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=8, accumulate=7, batch_size=3, evaluate_every=2)
    loop.run()
    # After 7, 14, 21, 28, 35 batches of 4 an epoch: the ends of epochs 2, 4 and 6 are passed by 14, 21 and 28.
    assert loop.evaluated == [2, 3, 4, 5]


def test_more_epochs_and_fewer(tmp_path, capsys):
    part(tmp_path, 15)
    loop = rest(tmp_path, epochs=1)
    assert loop.run().iteration == 15 and loop.evaluated == [15]
    said = capsys.readouterr().err
    assert "epochs was 4 and is now 1" in said
    assert (
        "nothing is left to train, as 15 steps, 1.5 epochs" in said and "epochs is 1: it is evaluated as it is" in said
    )
    loop = rest(tmp_path, epochs=2.5)
    assert (loop.run().iteration, loop.at.epoch, loop.at.batch) == (25, 2, 5)


def test_a_finished_run_says_so_and_does_nothing(tmp_path, capsys):
    part(tmp_path, None, epochs=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    loop = rest(tmp_path, epochs=1)
    assert loop.run().iteration == 10 and loop.evaluated == []
    assert "this run had finished, with its results in" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("minutes", [None, 0.1])
def test_a_run_that_ended_before_its_evaluation_is_evaluated(tmp_path, minutes):
    part(tmp_path, None, epochs=1)
    (tmp_path / "model.safetensors").unlink()
    loop = rest(tmp_path, epochs=1, minutes=minutes)
    loop.run()
    assert loop.evaluated == [10] and checkpoint.iteration_of(tmp_path / "model.safetensors") == 10


@pytest.mark.parametrize(("then", "now"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_another_optimizer_is_refused(tmp_path, then, now):
    part(tmp_path, 3, optimizer=then)
    with pytest.raises(UserError, match=rf"optimizer {then}, and now it is {now}.*--optimizer {then}.*weights="):
        rest(tmp_path, optimizer=now)


def test_weight_decay_and_other_numbers_are_those_of_now(tmp_path, capsys):
    part(tmp_path, 3)
    loop = rest(tmp_path, weight_decay=0.2, seed=4, clip=1.0, rate=0.01)
    assert [group["weight_decay"] for group in loop.optimizer.param_groups] == [0.2]
    said = capsys.readouterr().err
    for change in (
        "weight_decay was 0.0001 and is now 0.2",
        "seed was 0 and is now 4",
        "clip was not set and is now 1",
    ):
        assert change in said
    assert "lr was 0.005 and is now 0.01" in said


def other_model(**changes):
    config = tiny_model().config
    options = {"num_classes": 3, "semantic_classes": 4, "class_names": ("cat", "dog", "cow"), **changes}
    small = {"channels": 16, "box_channels": 32, "samples": 32, "pretrained": False, "backbone": config.backbone}
    return create_model(options.pop("name", "htc_r50"), **{**small, **options})


OTHERS = {
    "model was htc_r50 and is now mask_rcnn_r50": {"name": "mask_rcnn_r50"},
    "channels was 16 and is now 32": {"channels": 32},
    "backbone was test_resnet and is now test_resnet.r160_in1k": {"backbone": "test_resnet.r160_in1k"},
    "classes were cat, dog, cow and are now dog, cat, cow in another order": {"class_names": ("dog", "cat", "cow")},
    "classes were cat, dog, cow and are now cat, hen, cow": {"class_names": ("cat", "hen", "cow")},
    "classes were cat, dog, cow and are now cat, dog": {"class_names": ("cat", "dog"), "num_classes": 2},
    r"pretrained \(mean\) was \[123.675, 116.28, 103.53\] and is now \[0.0, 0.0, 0.0\]": {"mean": (0.0, 0.0, 0.0)},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    part(folder, 2, model=other_model())
    return folder


@pytest.mark.parametrize("change", OTHERS)
def test_another_network_is_refused_by_what_differs(made, change):
    with pytest.raises(UserError, match=rf"{change}.*continue with those of then, or start anew.*--weights"):
        rest(made, model=other_model(**OTHERS[change]))


def test_what_only_training_and_detection_read_may_change(made, capsys):
    loop = rest(made, model=other_model(samples=16, score_threshold=0.05))
    assert loop.at.iteration == 2
    assert "samples was 32 and is now 16, score_threshold was 0.001 and is now 0.05" in capsys.readouterr().err


def newest(folder):
    return checkpoint.whole(folder / "checkpoints")[-1].with_suffix(".state")


def test_a_checkpoint_of_an_earlier_version(tmp_path):
    part(tmp_path, 13, optimizer="adamw")
    state = torch.load(newest(tmp_path))
    del state["format"], state["recipe"], state["about"], state["position"]["lead"]
    assert state.keys() == {"optimizer", "position", "feed"}
    torch.save(state, newest(tmp_path))
    with pytest.raises(UserError, match="made with optimizer adamw"):
        rest(tmp_path)
    assert rest(tmp_path, optimizer="adamw").run().iteration == 40


def test_what_an_earlier_version_did_not_know_was_as_it_is_by_default(tmp_path, capsys):
    part(tmp_path, 13)
    state = torch.load(newest(tmp_path))
    del state["recipe"]["ema"], state["recipe"]["no_decay"]
    torch.save(state, newest(tmp_path))
    weights = newest(tmp_path).with_suffix(".safetensors")
    tensors, about = safetensors.torch.load_file(weights), safetensors.safe_open(weights, "pt").metadata()
    config = json.loads(about["config"])
    del config["box_loss"], config["class_loss"]
    safetensors.torch.save_file(tensors, weights, {**about, "config": json.dumps(config)})
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=4, ema=0.9, no_decay=True)
    loop.about["jitter"] = "large"
    loop.model.config = replace(loop.model.config, box_loss="giou")
    assert loop.resume()
    said = capsys.readouterr().err
    for change in ("box_loss was smooth_l1 and is now giou", "ema was 0 and is now 0.9", "jitter was none and is now"):
        assert change in said
    loop.model.config = replace(loop.model.config, class_loss="seesaw")
    with pytest.raises(UserError, match="class_loss was cross_entropy and is now seesaw"):
        loop.resume()


OURS = "000003.state is no state of a run of ours: there is no other one there, so start anew"
PLACE = ("iteration", "epoch", "batch", "seconds", "lead")
DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "000003.state is damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:500]), "000003.state is damaged"),
    "another file": (lambda path: torch.save({"weights": 1}, path), OURS),
    "a list": (lambda path: torch.save([1], path), OURS),
    "no position": (lambda path: torch.save({**torch.load(path), "position": {}, "feed": 3}, path), OURS),
    "None": (lambda path: torch.save({**torch.load(path), "position": dict.fromkeys(PLACE)}, path), OURS),
    "before": (lambda path: torch.save({**torch.load(path), "position": dict.fromkeys(PLACE, -1)}, path), OURS),
    "newer": (lambda path: torch.save({**torch.load(path), "format": 3}, path), "written by a newer htc_fast"),
    "no weights": (lambda path: path.with_suffix(".safetensors").write_bytes(b""), "000003.safetensors is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    part(tmp_path, 3)
    harm, sentence = DAMAGE[damage]
    harm(newest(tmp_path))
    with pytest.raises(UserError, match=sentence):
        rest(tmp_path)


def test_two_runs_do_not_share_a_folder(tmp_path):
    first, second = (timed_loop(tmp_path, lambda step: 1.0, epochs=1) for _ in range(2))
    update = first.update

    def meanwhile(batches):
        if first.at.iteration == 5:
            with pytest.raises(UserError, match="another run is writing to"):
                second.run()
        return update(batches)

    first.update = meanwhile
    assert first.run().iteration == 10 and second.at.iteration == 0
    assert second.run().iteration == 10


@pytest.mark.parametrize("every", [1, 0])
def test_interrupted_while_it_evaluates(tmp_path, capsys, every):
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=2, evaluate_every=every)
    done = []

    def evaluate(model):
        os.kill(os.getpid(), signal.SIGINT)
        done.append(1)  # reached if the signal waited
        return {"mask_AP": 0.0}

    loop.evaluate = evaluate
    assert loop.run().iteration == (10 if every else 20)
    assert loop.stopping and done == [] and "stopped after iteration" in capsys.readouterr().out
    loop = rest(tmp_path, epochs=2, evaluate_every=every)
    assert loop.run().iteration == 20 and loop.evaluated == [20]


def test_a_killed_loader_is_one_sentence(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 1.0, epochs=2)
    update = loop.update

    def killed(batches):
        def broken():
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            yield

        if loop.at.iteration == 4:
            loop._fetch(broken())
        return update(batches)

    loop.update = killed
    with pytest.raises(UserError, match=r"pictures was ended by the system \(DataLoader worker .pid 7.*--workers 0"):
        loop.run()
    assert [int(path.stem) for path in checkpoint.whole(tmp_path / "checkpoints")] == [4]
