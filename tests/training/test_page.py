"""The page at the end of training: of the last evaluation's predictions, within the time that is left."""

import json
import math
import signal

import pytest

from htc_fast.data import CocoDataset
from htc_fast.evaluation import coco
from htc_fast.training.distributed import World
from htc_fast.training.evaluation import PAGE, Evaluation, Forecast, make_picture
from tests.data.builder import write
from tests.inference.fake import Fake


@pytest.fixture
def data(tmp_path):
    return CocoDataset(write(tmp_path / "data"), "val", semantic="none")


@pytest.fixture
def collected(monkeypatch):
    """With which stage a model predicted the held-out pictures, each time."""
    calls, collect = [], coco.collect

    def counted(model, *given, **more):
        calls.append(model.config.test_stage)
        return collect(model, *given, **more)

    monkeypatch.setattr(coco, "collect", counted)
    return calls


def test_the_page_is_of_what_was_predicted_in_the_evaluation(tmp_path, data, collected):
    evaluated, model = Evaluation(data, World()), Fake().eval()
    numbers = evaluated(model)
    said = evaluated.write_page(model, tmp_path / "run", 60.0)
    assert said == f"how it did, and on what: {tmp_path / 'run' / 'report.html'}"
    assert collected == [None, 1, 2, 3]
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(written["stages"]) == ["stage 1", "stage 2", "stage 3", "ensemble"] and written["pictures"] == 2
    assert {name: pytest.approx(value) for name, value in numbers.items()} == written["stages"]["ensemble"]["metrics"]
    assert 'src="data:image/jpeg' in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("took", "seconds", "stages"), [(19.0, 600.0, 3), (21.0, 600.0, 0), (19.0, 50.0, 0), (0.1, 2.2, 0)]
)
def test_stages_are_left_out_where_they_take_long(tmp_path, data, took, seconds, stages):
    evaluated, model = Evaluation(data, World()), Fake().eval()
    evaluated(model)
    evaluated.took = took
    said = evaluated.write_page(model, tmp_path, seconds)
    assert ("AP by stage would take too long" in said) == (not stages)
    assert len(json.loads((tmp_path / "report.json").read_text())["stages"]) == stages + 1
    evaluated.began -= 1000  # of a long run they may take more
    evaluated.took = 21.0
    assert "too long" not in evaluated.write_page(model, tmp_path)


def test_ctrl_c_leaves_the_stages_out_and_writes_the_page(tmp_path, data, monkeypatch):
    evaluated, model = Evaluation(data, World()), Fake().eval()
    evaluated(model)
    monkeypatch.setattr(coco, "collect", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    said = evaluated.write_page(model, tmp_path)
    assert "AP by stage was stopped" in said and (tmp_path / "report.html").exists()
    assert list(json.loads((tmp_path / "report.json").read_text())["stages"]) == ["ensemble"]
    assert model.config.test_stage is None


def test_no_page_of_other_weights(tmp_path, data):
    """As where the time did not suffice for an evaluation at the end."""
    evaluated, model = Evaluation(data, World()), Fake().eval()
    assert evaluated.write_page(model, tmp_path / "run") == ""
    evaluated(model)
    model.weight.data.add_(1)
    assert evaluated.write_page(model, tmp_path / "run") == "" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("seconds", [0.5 * PAGE, -1.0])
def test_no_page_without_time(tmp_path, data, seconds):
    evaluated, model = Evaluation(data, World()), Fake().eval()
    evaluated(model)
    said = evaluated.write_page(model, tmp_path / "run", seconds)
    assert said == "report.html: no time left to write it: htc_fast.evaluate --report does."
    assert not (tmp_path / "run").exists()


def test_other_processes_keep_nothing(data, monkeypatch):
    second = World(rank=1, size=2)
    evaluated = Evaluation(data, second)
    assert evaluated(Fake().eval()) == {} and evaluated.scores is None and not evaluated.found


def test_the_page_is_foreseen_and_written_after_the_picture(tmp_path, data):
    class Model(Fake):
        def predict(self, pictures, **_):
            return [data.truth(0) if one.shape[:2] == (48, 64) else data.truth(1) for one in pictures]

    model = Model().eval()
    evaluated, forecast = Evaluation(data, World()), Forecast(data, World(), amp=False)
    assert PAGE < forecast(model) < PAGE + 20
    evaluated(model)
    said = make_picture(data, forecast, evaluated=evaluated)(model, tmp_path / "predictions.png", math.inf)
    assert said.startswith("how it did") and (tmp_path / "predictions.png").exists()
    assert (tmp_path / "report.html").exists()
