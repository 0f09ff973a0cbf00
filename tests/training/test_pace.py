"""A time limit is kept on any machine: the schedule is fitted to it, and what does not fit is said."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from htc_fast.data.instances import Instances
from htc_fast.training.distributed import World
from htc_fast.training.evaluation import Forecast, make_picture
from htc_fast.training.pace import Pace
from htc_fast.training.report import Report
from tests.training.clock import Clock, timed_loop

LIMIT = 4.5 * 60


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


def test_a_run_that_fits_is_left_as_it_is(tmp_path, capsys):
    loop = timed_loop(tmp_path, lambda step: 9.0 if step == 0 else 0.2, 5.0, epochs=48, minutes=4.5, evaluate_every=16)
    at = loop.run()
    assert (at.iteration, at.epoch, at.batch, at.lead) == (480, 48, 0, 0.0)
    assert loop.evaluated == [160, 320, 480]
    assert loop.rates[2:384] == [0.005] * 382 and loop.rates[-1] == pytest.approx(5e-5)
    assert "fit into" not in capsys.readouterr().out


def test_a_slow_machine_does_what_fits(tmp_path, capsys):
    loop = timed_loop(tmp_path, lambda step: 8.0 if step == 0 else 1.3, 60.0, epochs=48, minutes=4.5, evaluate_every=4)
    at = loop.run()
    took = loop.clock.now - loop.began
    assert 0.85 * LIMIT < took <= LIMIT
    assert 120 <= at.iteration <= 140 and at.lead == pytest.approx(1 - at.iteration / 480)
    # Evaluations in between would have cost steps; the rate goes through both of its drops.
    assert loop.evaluated == [at.iteration]
    drops = [next(i for i, rate in enumerate(loop.rates) if i > 50 and rate < below) for below in (3e-3, 3e-4)]
    assert [drop / at.iteration for drop in drops] == pytest.approx([0.8, 0.95], abs=0.02)
    said = capsys.readouterr().out
    assert "this machine takes 1.3 s a step: about 132 of 480 steps fit into 4.5 minutes" in said
    assert "set max_minutes to 13 (--max-minutes 13)" in said and "near 0" not in said
    assert said.count("no evaluations in between: one takes 60 s") == 1
    assert f"finished after {at.iteration} of 480 iterations in 4." in said


def test_that_many_minutes_are_enough(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 1.3, 60.0, epochs=48, minutes=13.0)
    assert loop.run().iteration == 480
    assert loop.clock.now - loop.began <= 13 * 60


@pytest.mark.parametrize("slower", [2, 5])
def test_a_machine_that_slows_down_midway(tmp_path, slower):
    loop = timed_loop(tmp_path, lambda step: 0.4 if step < 200 else 0.4 * slower, 15.0, epochs=48, minutes=4.5)
    at = loop.run()
    assert loop.clock.now - loop.began <= LIMIT
    assert 250 < at.iteration < 480 and at.lead > 0
    assert loop.rates[-1] == pytest.approx(5e-5) and loop.evaluated == [at.iteration]


def test_a_disturbance_of_seconds_ends_nothing(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 3.0 if 300 <= step < 305 else 0.3, 25.0, epochs=48, minutes=4.5)
    assert loop.run().iteration > 450
    assert loop.clock.now - loop.began <= LIMIT


def test_a_slow_beginning_is_made_up_for(tmp_path):
    # As where layers are compiled at the first pictures of each size: at first it looks as if 20 steps would fit.
    loop = timed_loop(tmp_path, lambda step: 12.0 if step < 6 else 0.3, 10.0, epochs=48, minutes=4.5, warmup=20)
    at = loop.run()
    assert at.iteration == 480 and at.lead == pytest.approx(0)
    assert loop.rates == sorted(loop.rates[:20]) + sorted(loop.rates[20:], reverse=True)


@pytest.mark.parametrize("evaluation, step", [(15.0, 0.5), (15.0, 0.1), (30.0, 0.8), (50.0, 0.3)])
def test_a_slow_first_minute_costs_that_minute(tmp_path, evaluation, step):
    clock = Clock(slow=(0, 60, 20))
    loop = timed_loop(tmp_path, lambda _: step, evaluation, clock=clock, epochs=48, minutes=4.5, warmup=20)
    at = loop.run()
    took = clock.now - loop.began
    assert took <= LIMIT and (took >= 0.8 * LIMIT or at.iteration == 480)
    assert loop.evaluated == [at.iteration] and 2 <= loop.forecasts <= 4
    assert loop.rates[-1] == pytest.approx(5e-5) and max(loop.rates) == pytest.approx(0.005)


def test_no_run_ends_early_for_one_slow_forecast(tmp_path):
    # Steps 1 to 4 take 2 s, then the machine is busy for as long as the forecast takes.
    clock = Clock(slow=(4.0, 16.0, 10))
    loop = timed_loop(tmp_path, lambda step: 1.0, 20.0, clock=clock, epochs=48, minutes=4.5)
    at = loop.run()
    assert 0.8 * LIMIT < clock.now - loop.began <= LIMIT and loop.evaluated == [at.iteration]
    assert at.iteration > 180 and loop.forecasts == 2


def test_a_restless_machine_is_not_looked_at_for_ever(tmp_path):
    loop = timed_loop(tmp_path, lambda step: (0.2, 0.8)[step // 30 % 2], 40.0, epochs=48, minutes=4.5)
    loop.run()
    assert loop.clock.now - loop.began <= LIMIT and 2 < loop.forecasts < 9


def test_too_few_steps_are_called_so(tmp_path, capsys):
    loop = timed_loop(tmp_path, lambda step: 8.0, 100.0, epochs=48, minutes=4.5)
    at = loop.run()
    assert 5 < at.iteration < 20 and loop.clock.now - loop.began <= LIMIT
    said = capsys.readouterr().out
    assert "fewer than 60 teach next to nothing, so expect an AP near 0; for all of them set max_minutes to 71" in said
    assert f"finished after {at.iteration} of 480 iterations" in said and "raise max_minutes" in said


def test_steps_of_minutes_end_in_time_too(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 100.0, 500.0, epochs=48, minutes=4.5)
    assert loop.run().iteration == 2
    assert loop.clock.now - loop.began <= LIMIT and loop.evaluated == []


def test_an_evaluation_that_takes_most_of_the_time_is_left_out_and_said(tmp_path, capsys):
    loop = timed_loop(tmp_path, lambda step: 0.2, 300.0, epochs=40, minutes=4.5, evaluate_every=10)
    assert loop.run().iteration == 400
    assert loop.evaluated == [] and loop.clock.now - loop.began <= LIMIT
    assert "not evaluated: the time limit of 4.5 minutes has not left the 300 s" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").exists()


def test_time_before_the_loop_and_before_a_resume_counts(tmp_path):
    first = timed_loop(tmp_path, lambda step: 1.0, epochs=48, minutes=4.5)
    first.spent = 100.0
    assert first.run().iteration < 165
    assert first.clock.now - first.began <= LIMIT - 100


def test_a_stopped_run_ends_within_its_limit_and_with_more_time_does_the_rest(tmp_path):
    timed_loop(tmp_path, lambda step: 1.3, 30.0, epochs=48, minutes=4.5, stop=50).run()
    second = timed_loop(tmp_path, lambda step: 1.3, 30.0, epochs=48, minutes=4.5)
    second.resume()
    assert 0 < second.at.lead < 0.5 and second.at.seconds == pytest.approx(66.5, abs=5)
    at = second.run()
    assert second.clock.now - second.began <= LIMIT - 65 and at.iteration > 140
    third = timed_loop(tmp_path, lambda step: 1.3, 30.0, epochs=48, minutes=20.0)
    third.resume()
    assert third.at.lead == 0
    assert third.run().iteration == 480


def test_a_machine_without_a_limit_is_not_timed():
    pace = Pace(None, clock=Clock())
    assert pace.hurry(3, 0.5, 0.0, 100) == 0 and pace.affords(0.5, 100) and pace.ends_with_evaluation()


def test_a_long_warm_up_is_made_to_fit(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 2.0, 10.0, epochs=48, minutes=4.5, evaluate_every=0, warmup=400)
    at = loop.run()
    assert 100 < at.iteration < 130
    assert max(loop.rates) == pytest.approx(0.005)


def test_a_command_began_with_its_imports_and_not_with_the_shell_that_it_replaces():
    code = "import htc_fast, time; time.sleep(0.2); import htc_fast.train; print(time.monotonic() - htc_fast.BEGAN)"
    waits = ["bash", "-c", 'sleep 1; date +%s.%N; exec "$0" -c "$1"', sys.executable, code]
    began, age = map(float, subprocess.run(waits, capture_output=True, text=True, check=True).stdout.split())
    assert 0.2 < age <= time.time() - began


def test_time_that_was_spent_before_is_said_plainly(tmp_path, capsys):
    loop = timed_loop(tmp_path, lambda step: 100.0, 500.0, epochs=48, minutes=1.0)
    assert loop.run().iteration == 1 and loop.evaluated == [] and loop.forecasts == 0
    said = capsys.readouterr().out
    assert "not evaluated: the time limit of 1 minutes was spent before, after 100 s; htc_fast.evaluate" in said


def test_a_small_limit_is_used_too(tmp_path):
    loop = timed_loop(tmp_path, lambda step: 1.2, epochs=48, minutes=0.2)
    loop.run()
    assert 8.0 < loop.clock.now - loop.began <= 12.0


def test_curves_and_the_picture_count(tmp_path, monkeypatch, capsys):
    loop = timed_loop(tmp_path, lambda step: 1.0, 80.0, epochs=48, minutes=1.0)
    monkeypatch.setattr(Report, "draw", lambda self: loop.clock.spend(5.0))
    given = []

    def picture(model, path, seconds):
        given.append(seconds)
        loop.clock.spend(seconds)
        return "predictions.png: 2 of 6 pictures fit into the time limit."

    loop.picture = picture
    loop.run()
    assert loop.evaluated == [] and 0 < given[0] < 60
    # Curves once to see what they take, and once after the picture.
    assert loop.clock.now - loop.began == pytest.approx(60.0)
    assert "2 of 6 pictures fit" in capsys.readouterr().out


NOTHING = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [], (40, 40))


class Shown:
    """Six pictures, of which a model predicts as many as it is given."""

    classes, tile = ("cat",), None

    def __len__(self):
        return 6

    def image(self, index):
        return np.full((40, 40, 3), index, np.uint8)

    def truth(self, index):
        return NOTHING


@pytest.mark.parametrize(("seconds", "count"), [(math.inf, 6), (100.0, 6), (2.7, 2), (1.0, 0), (-3.0, 0)])
def test_as_many_pictures_as_fit(tmp_path, seconds, count):
    forecast, asked = Forecast(Shown(), World(), amp=False), []
    forecast.each = 1.0

    class Model:
        def predict(self, pictures, **_):
            asked.append(len(pictures))
            return [NOTHING for _ in pictures]

    said = make_picture(Shown(), forecast)(Model(), tmp_path / "predictions.png", seconds)
    assert asked == ([count] if count else []) and (tmp_path / "predictions.png").exists() == bool(count)
    wanted = "" if count == 6 else f"predictions.png: {count or 'none'} of 6 pictures fit into the time limit."
    assert said == wanted
