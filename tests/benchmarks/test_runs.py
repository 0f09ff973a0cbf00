"""The longer runs: what they find in made-up results, and that they store it where it belongs."""

import json
import sys

import pytest
import torch
from PIL import Image, UnidentifiedImageError

from benchmarks import buckets, precision, soak, stored, sweep, timer
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError


def instances(*boxes: list[float], scores: list[float], label: int = 0) -> Instances:
    labels = torch.full((len(boxes),), label)
    given = {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": labels}
    return Instances(**given, rle=[{}] * len(boxes), size=(100, 100), class_names=("a", "b"))


def test_matched_are_those_of_the_same_class_and_place():
    box, near, far = [0.0, 0.0, 50.0, 50.0], [0.0, 0.0, 50.0, 49.0], [40.0, 40.0, 90.0, 90.0]
    exact = {
        0: instances(box, far, scores=[0.9, 0.2]),
        1: instances(box, scores=[0.8]),
        2: instances(box, scores=[0.7]),
    }
    found = {
        0: instances(near, scores=[0.85]),
        1: instances(far, scores=[0.8]),
        2: instances(box, scores=[0.7], label=1),
    }
    assert precision.matched(exact, exact) == {"matched": 1.0, "of": 3, "scores apart": 0.0}
    # The far box scores too little to count; the second is elsewhere, the third of another class.
    assert precision.matched(exact, found) == {"matched": 0.3333, "of": 3, "scores apart": 0.05}


def test_exponents_are_fitted_where_no_fixed_cost_is_left():
    sizes = 10, 100, 1000, 10_000
    assert sweep.exponent(sizes, [size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert sweep.exponent(sizes, [100.0, 100.0, 1000.0, 10_000.0]) == pytest.approx(1)


def test_a_sweep_is_stored_with_its_machine(tmp_path, monkeypatch, capsys):
    sizes = {"RoIs": (1, 2, 4)}
    monkeypatch.setattr(sweep, "SIZES", sizes)
    monkeypatch.setattr(sweep, "calls", lambda device: {"RoIs": lambda size: lambda: None})
    monkeypatch.setattr(timer, "sample", lambda call, device, budget: [0.001])
    monkeypatch.setattr(sys, "argv", ["sweep", "--device", "cpu", "--out", str(tmp_path / "new")])
    sweep.main()
    result = json.loads((tmp_path / "new" / "sweep.json").read_text())
    curve = {"over": "RoIs", "what": sweep.WHAT["RoIs"], "sizes": [1, 2, 4], "milliseconds": [1.0] * 3, "exponent": 0.0}
    assert result["curves"] == [curve] and result["machine"]["torch"] == torch.__version__.split("+")[0]
    assert (tmp_path / "new" / "sweep.png").exists() and "time ~ size^0" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        stored.folder(torch.device("cpu"), tmp_path / "file" / "results")


def test_some_of_the_soak_pictures_are_broken(tmp_path):
    assert soak.make_pictures(tmp_path / "few", 3) == 0
    assert soak.make_pictures(tmp_path / "many", 250) == 1
    with Image.open(tmp_path / "many" / "000249.jpg") as picture:
        picture.load()
    with pytest.raises((OSError, UnidentifiedImageError)):
        Image.open(tmp_path / "many" / "000250.jpg").load()


def test_the_memory_of_another_process_is_watched():
    grows = "import time; time.sleep(0.3); held = b'x' * 100_000_000; time.sleep(0.5); raise SystemExit(3)"
    memory, status = soak.watched([sys.executable, "-c", grows])
    assert status == 3 and max(memory) - memory[2] > 90


def test_a_predict_that_fails_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "make_weights", lambda path: path.write_bytes(b"no weights"))
    monkeypatch.setattr(soak, "watched", lambda command: ([1.0], 2))
    with pytest.raises(UserError, match="status 2 and 0 overlays"):
        soak.soak(tmp_path, 2, torch.device("cpu"), optimize=False)


def test_buckets_are_measured_apart_and_stored(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(buckets, "SHAPES", ((1, 64, 96), (2, 64, 96)))
    monkeypatch.setattr(buckets, "apart", lambda device, *words: asked.append(words) or 7)
    monkeypatch.setattr(sys, "argv", ["buckets", "--device", "cpu", "--out", str(tmp_path)])
    buckets.main()
    result = json.loads((tmp_path / "buckets.json").read_text())
    row = {"batch": 2, "height": 64, "width": 96, "MB": {"float32": 7, "bfloat16": 7}}
    assert result["rows"][1] == row and result["what"] == buckets.WHAT["cpu"]
    assert asked[0] == ("1", "64", "96", "float32") and len(asked) == 4
