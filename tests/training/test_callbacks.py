"""What a run tells its callbacks, in which order, and that none of them can end it once it has begun."""

from types import SimpleNamespace

import pytest
import torch

from htc_fast import UserError
from htc_fast.training import Callback, Trainer, checkpoint, monitor
from htc_fast.training.callbacks import check_callbacks
from htc_fast.training.distributed import World
from htc_fast.training.loop import Loop
from htc_fast.training.metrics import read_rows
from htc_fast.training.report import Report
from tests.data.builder import write
from tests.training.clock import timed_loop
from tests.training.test_run import small_run
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


class Heard(Callback):
    def __init__(self):
        self.all = []

    def on_start(self, folder, iteration, settings):
        self.all.append(("start", folder.name, iteration, settings.get("lr")))

    def on_step(self, iteration, numbers):
        self.all.append(("step", iteration, numbers["loss"]))
        numbers.clear()  # its own

    def on_evaluation(self, iteration, numbers):
        self.all.append(("evaluation", iteration, numbers["mask_AP"]))

    def on_end(self, iteration):
        self.all.append(("end", iteration))

    def on_error(self, iteration, error):
        self.all.append(("error", iteration, type(error).__name__))


class Hostile(Heard):
    """Raises in its method of that name."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("event"):
            raise OSError("the network is gone")
        return object.__getattribute__(self, name)


def listened(folder, *callbacks, **options):
    """A loop of ten steps of a second and two evaluations, with a row at every fifth step."""
    given = {"epochs": 1, "log_every": 5, **options}
    loop = timed_loop(folder, lambda step: 1.0, length=10, **given)
    loop.callbacks, loop.settings = callbacks, {"lr": 0.5}
    return loop


def test_order_and_arguments(tmp_path):
    first, second = Heard(), Heard()
    listened(tmp_path / "run", first, second, epochs=2, evaluate_every=1).run()
    assert first.all == [
        ("start", "run", 0, 0.5),
        ("step", 5, 5.0),
        ("step", 10, 5.0),
        ("evaluation", 10, 0.5),
        ("step", 15, 5.0),
        ("step", 20, 5.0),
        ("evaluation", 20, 0.5),
        ("end", 20),
    ]
    assert second.all == first.all
    assert [row["loss"] for row in read_rows(tmp_path / "run" / "losses.csv")] == [5.0] * 4


def test_steps_before_an_evaluation_are_in_the_next_row(tmp_path, monkeypatch):
    loop = listened(tmp_path, epochs=2, evaluate_every=1, log_every=8)
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=loop.clock))
    step, evaluate = loop.update, loop.evaluate

    def rising(batches):
        terms, images = step(batches)
        return {name: torch.tensor(float(loop.at.iteration)) for name in terms}, images

    def slow(model):
        loop.clock.spend(100)
        return evaluate(model)

    loop.update, loop.evaluate = rising, slow
    loop.run()
    rows = read_rows(tmp_path / "losses.csv")
    # Means of steps 0 to 7, 8 to 15, and 16 to 19; each takes a second, and the evaluation between them does not count.
    assert [row["rpn_class"] for row in rows] == [3.5, 11.5, 17.5]
    assert [row["images_per_second"] for row in rows] == [1.0, 1.0, 1.0]


def test_a_wish_to_stop_and_going_on(tmp_path):
    stopped, resumed = Heard(), Heard()
    listened(tmp_path, stopped, stop=7).run()
    assert stopped.all == [("start", tmp_path.name, 0, 0.5), ("step", 5, 5.0), ("error", 7, "KeyboardInterrupt")]
    loop = listened(tmp_path, resumed)
    loop.resume()
    loop.run()
    assert resumed.all[0] == ("start", tmp_path.name, 7, 0.5) and resumed.all[-1] == ("end", 10)


def test_an_error_is_told_and_stays_itself(tmp_path):
    heard, loop = Heard(), listened(tmp_path, log_every=1)
    step, loop.callbacks = loop.update, [heard]

    def failing(batches):
        if loop.at.iteration == 3:
            raise UserError("picture 7 is broken.")
        return step(batches)

    loop.update = failing
    with pytest.raises(UserError, match="picture 7"):
        loop.run()
    assert heard.all[-1] == ("error", 3, "UserError") and ("end", 3) not in heard.all


@pytest.mark.parametrize("event", ["on_step", "on_evaluation", "on_end"])
def test_a_callback_that_fails_is_left_out_and_the_run_goes_on(tmp_path, event, capsys):
    hostile, heard = Hostile(event), Heard()
    assert listened(tmp_path, hostile, heard).run().iteration == 10
    iteration = 5 if event == "on_step" else 10
    said = capsys.readouterr().out
    sentence = f"callback Hostile failed in {event} at iteration {iteration} (OSError: the network is gone, "
    assert (
        said.count("callback Hostile") == 1
        and sentence in said
        and ("left out from here on, and the run goes on." in said) == (event != "on_end")
    )
    assert heard.all[-1] == ("end", 10) and hostile.all[-1][0] != "end"
    assert [path.stem for path in checkpoint.whole(tmp_path / "checkpoints")] == ["000010"]


def test_ctrl_c_while_the_last_curves_are_drawn_is_no_reason_to_tell_nobody(tmp_path, monkeypatch):
    def interrupted(self):
        if (tmp_path / "model.safetensors").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Report, "draw", interrupted)
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        listened(tmp_path, heard).run()
    assert heard.all[-1] == ("end", 10)


def test_one_that_cannot_start_ends_the_run_before_its_first_step(tmp_path):
    heard, never = Heard(), Heard()
    loop = listened(tmp_path, heard, Hostile("on_start"), never)
    with pytest.raises(
        UserError, match=r"callback Hostile could not start \(OSError: the network is gone.*leave Hostile"
    ):
        loop.run()
    assert heard.all == [("start", tmp_path.name, 0, 0.5), ("error", 0, "UserError")] and not never.all
    assert loop.at.iteration == 0 and not (tmp_path / "checkpoints").exists()


class Enough(Heard):
    """Asks for the run's end in one event."""

    def __init__(self, event, reason="the mask AP is enough"):
        super().__init__()
        self.event, self.reason = event, reason

    def on_start(self, folder, iteration, settings):
        super().on_start(folder, iteration, settings)
        self.ask("start")

    def on_step(self, iteration, numbers):
        super().on_step(iteration, numbers)
        self.ask("step")

    def on_evaluation(self, iteration, numbers):
        super().on_evaluation(iteration, numbers)
        self.ask("evaluation")

    def ask(self, event):
        if event == self.event:
            self.end_run(self.reason)


@pytest.mark.parametrize(("event", "ended"), [("start", 1), ("step", 5), ("evaluation", 10)])
def test_a_callback_may_end_the_run(tmp_path, event, ended, capsys):
    enough, other = Enough(event), Heard()
    loop = listened(tmp_path, other, enough, epochs=3, evaluate_every=1)
    assert loop.run().iteration == ended
    # As at any end: the weights are evaluated once, saved, and all are told.
    assert loop.evaluated == [ended] and checkpoint.iteration_of(tmp_path / "model.safetensors") == ended
    assert [path.stem for path in checkpoint.whole(tmp_path / "checkpoints")] == [f"{ended:06d}"]
    assert (tmp_path / "best.safetensors").exists() and enough.all == other.all and enough.all[-1] == ("end", ended)
    assert "ended early: callback Enough asked for it: the mask AP is enough" in capsys.readouterr().out
    assert not loop.stopping


def test_a_run_that_a_callback_ended_goes_on_with_resume(tmp_path):
    enough = Enough("evaluation", "")
    # Its wish of the run before is forgotten: it asks again, at its next evaluation.
    for callback, ended in ((enough, 10), (enough, 20), (Heard(), 30)):
        loop = listened(tmp_path, callback, epochs=3, evaluate_every=1)
        loop.resume()
        assert loop.run().iteration == ended and loop.evaluated == [ended]


def test_a_wish_of_one_that_failed_afterwards_counts(tmp_path):
    class Hasty(Callback):
        def on_step(self, iteration, numbers):
            self.end_run("done")
            raise OSError("gone")

    assert listened(tmp_path, Hasty()).run().iteration == 5


def test_only_the_leading_process_calls(tmp_path):
    heard = Heard()
    recipe = tiny_recipe(iterations=1)
    Loop(tiny_model(), tiny_batches(), recipe, tmp_path, World(rank=1), callbacks=[heard]).run()
    assert heard.all == []


def test_from_a_trainer_with_what_it_came_to(tmp_path):
    class Settings(Heard):
        def on_start(self, folder, iteration, settings):
            self.settings = settings

    for split in ("train", "val"):
        write(tmp_path, split=split)
    heard = Settings()
    run = small_run(tmp_path, tmp_path / "run", iterations=1, lr=None, accumulate=2, log=["none"])
    trainer = Trainer(run, callbacks=[heard])
    trainer.run()
    assert [one[:2] for one in heard.all] == [("step", 1), ("evaluation", 1), ("end", 1)]
    told = {name: heard.settings[name] for name in ("lr", "batch_size", "processes", "device", "data", "accumulate")}
    assert told == {
        "lr": 0.005,
        "batch_size": 2,
        "processes": 1,
        "device": "cpu",
        "data": str(tmp_path),
        "accumulate": 2,
    }
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_wish_in_the_last_step_changes_nothing(tmp_path, capsys):
    listened(tmp_path, Enough("step"), log_every=10).run()
    assert "ended early" not in capsys.readouterr().out


def test_one_callback_needs_no_list():
    one, other = Heard(), Heard()
    assert check_callbacks(one) == [one] and check_callbacks((one, other)) == [one, other]
    with pytest.raises(UserError, match="callbacks takes objects of classes made from"):
        check_callbacks(Heard)


@pytest.mark.parametrize("wrong", [Heard, print, None])
def test_what_is_no_callback_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=r"callbacks takes objects of classes made from htc_fast\.training\.Callback"):
        Trainer(small_run(tmp_path, tmp_path / "run"), callbacks=[wrong])
