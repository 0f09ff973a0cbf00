"""`python -m htc_fast.profile` end to end at a tiny size: numbers that belong together, files that are there."""

import importlib.util
import json
import sys
import time

import pytest
import torch
from PIL import Image

from htc_fast import profile as command
from htc_fast.commands import entry
from htc_fast.errors import UserError
from htc_fast.profiling import ProfileRun, chart, detect, limits, profile, report
from htc_fast.profiling.detect import Run
from htc_fast.profiling.meters import Clock, Need, median_round, spread
from htc_fast.ranges import part, watching

SMALL = {
    "backbone": "test_resnet",
    "channels": 16,
    "box_channels": 32,
    "num_classes": 3,
    "semantic_classes": 5,
    "rpn_proposals": 30,
    "rpn_proposals_per_level": 50,
    "detections": 8,
}
TINY = ["--image-size", "64", "96", "--set", *(f"{name}={value}" for name, value in SMALL.items())]
TRAIN = "--train --rounds 1 --dtypes float32 --set samples=16 rpn_train_proposals=30".split()
ONCE = "--rounds 1 --dtypes float32 --modes eager".split()
LIMITS = limits.Limits(1e10, {"float32": 1e11, "bfloat16": 2e11})


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    monkeypatch.setattr(limits, "measure", lambda device: LIMITS)


def run(monkeypatch, folder, options: list[str]) -> int:
    """The command in this process, so that limits can be given; returns its status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["profile", *options, *TINY])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    return end.value.code


def sums_hold(row):
    parts = row["parts"].values()
    for key in ("ms", "gflop", "mb", "limit_ms"):
        assert sum(one[key] for one in parts) == pytest.approx(row[key], rel=1e-3), key
    assert row["limit_ms"] / row["ms"] == pytest.approx(row["share"], rel=1e-3)


def test_inference(tmp_path, monkeypatch, capsys):
    options = "--models htc_r50 mask_rcnn_r50 --modes eager optimized --rounds 2 --trace trace.json".split()
    status = run(monkeypatch, tmp_path, options)
    shown = capsys.readouterr()
    assert status == 0 and "this takes about" in shown.err and "htc_r50: optimized" in shown.err
    result = json.loads((tmp_path / "runs/profile/profile.json").read_text())
    cases = [(row["case"], row["mode"]) for row in result["rows"]]
    assert {("htc_r50", "eager"), ("htc_r50", "optimized"), ("mask_rcnn_r50", "eager")} <= set(cases)
    for row in result["rows"]:
        sums_hold(row)
        assert row["images_per_second"] == pytest.approx(1e3 / row["ms"], rel=1e-3)
    parts = result["rows"][0]["parts"]
    assert {"preprocess", "backbone", "FPN", "mask stage 3", "paste + RLE"} <= set(parts)
    assert all(one["ms"] > 0 for name, one in parts.items())
    assert result["paper"]["htc_r50"]["fps"] == 2.5 and "box stage 3" in shown.out and "19%" in shown.out
    assert (tmp_path / "runs/profile/profile.png").read_bytes()[:4] == b"\x89PNG"
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"backbone", "box stage 2", "paste + RLE"} <= names


def test_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    size = {"image_size": (64, 96), "rounds": 1, "set": SMALL}
    result = profile(ProfileRun(models=("mask_rcnn_r50",), modes=("optimised",), **size), told.append)
    assert {(row["case"], row["mode"]) for row in result["rows"]} == {("mask_rcnn_r50", "optimized")}
    assert "mask_rcnn_r50: counting" in told and json.loads(json.dumps(result)) == result
    assert not list(tmp_path.iterdir()), "only the command writes, where it is told to"
    with pytest.raises(UserError, match="--rounds takes a whole number of at least 1"):
        ProfileRun(rounds=0)


def test_a_training_step(tmp_path, monkeypatch, capsys):
    status = run(monkeypatch, tmp_path, ["--models", "htc_r50", *TRAIN])
    assert status == 0 and "peak memory" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "runs/profile/profile_train.json").read_text())["rows"]
    sums_hold(row)
    parts = row["parts"]
    assert {"data", "backbone", "forward", "backward", "optimizer", "mask stage 2"} <= set(parts)
    assert parts["backward"]["gflop"] > parts["backbone"]["gflop"] > 0 and row["memory_mb"] > 50


def test_a_trace_of_a_training_step(tmp_path, monkeypatch):
    assert run(monkeypatch, tmp_path, ["--models", "mask_rcnn_r50", "--trace", "step.json", *TRAIN]) == 0
    names = {event.get("name") for event in json.loads((tmp_path / "step.json").read_text())["traceEvents"]}
    assert {"data", "backward", "optimizer"} <= names


def test_an_interrupted_profile_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    timed, calls = detect._timed, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return timed(*arguments)

    monkeypatch.setattr(detect, "_timed", interrupted)
    # As older scripts spell the mode.
    options = "--models mask_rcnn_r50 --modes eager optimised --dtypes float32 --rounds 1".split()
    assert run(monkeypatch, tmp_path, options) == 130
    result = json.loads((tmp_path / "runs/profile/profile.json").read_text())
    assert [row["mode"] for row in result["rows"]] == ["eager"] and "interrupted" in result["setting"]["changed"][-1]
    assert "interrupted" in capsys.readouterr().err


def test_one_model_that_does_not_fit_leaves_the_others(tmp_path, monkeypatch, capsys):
    build = detect.build

    def full(name, *arguments, **overrides):
        if name == "htc_r50":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return build(name, *arguments, **overrides)

    monkeypatch.setattr(detect, "build", full)
    assert run(monkeypatch, tmp_path, ["--models", "htc_r50", "mask_rcnn_r50", *ONCE]) == 0
    result = json.loads((tmp_path / "runs/profile/profile.json").read_text())
    assert [row["case"] for row in result["rows"]] == ["mask_rcnn_r50"] and "htc_r50" in result["absent"]
    assert "htc_r50: not enough memory" in capsys.readouterr().err


def test_without_matplotlib_the_numbers_stay(tmp_path, monkeypatch, capsys):
    here = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else here(name))
    assert run(monkeypatch, tmp_path, ["--models", "mask_rcnn_r50", *ONCE]) == 0
    assert [path.name for path in (tmp_path / "runs/profile").iterdir()] == ["profile.json"]
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_place_where_nothing_can_be_written_is_noticed_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(limits, "measure", lambda device: pytest.fail("measured before looking"))
    for options in (["--out", "file/inside"], ["--trace", "file/trace.json"]):
        assert run(monkeypatch, tmp_path, options) == 2
        assert "cannot write" in capsys.readouterr().err


def test_a_picture_knows_what_it_shows(tmp_path):
    needs = {"backbone": Need(1e9, 1e6, [(1e9, 1e6)])}
    rows = [Run(name, "eager", "float32", [{"backbone": 0.1}], needs).row(LIMITS) for name in ("htc_r50", "other")]
    about = {"device": "x", "torch": "2", "date": "today"}
    result = {
        "machine": about,
        "limits": LIMITS.as_dict(),
        "rows": rows,
        "setting": {"size": [8, 8], "batch_size": 2},
        "paper": {"htc_r50": {"fps": 2.5, "share": 0.19}},
    }
    image = Image.open(chart.draw(result, tmp_path / "profile.png"))
    assert image.info["Source"] == chart.digest(result) != chart.digest(result | {"rows": rows[:1]})
    assert min(image.size) > 200


def test_what_is_absent_is_said(monkeypatch):
    result = {
        "machine": {"device": "x", "torch": "2"},
        "limits": {},
        "rows": [],
        "absent": {"mmdetection": "no"},
        "setting": {"size": [1, 1], "batch_size": 1, "rounds": 1, "changed": []},
    }
    assert "mmdetection: absent, no" in report.text(result)


def test_a_clock_counts_inner_parts_once():
    clock = Clock(torch.device("cpu"))
    with watching(clock):
        clock.start()
        began = time.perf_counter()
        with part("outer"):
            time.sleep(0.02)
            with part("inner"):
                time.sleep(0.04)
        times = clock.stop()
        taken = time.perf_counter() - began
    # A busy machine sleeps longer; the inner part counted twice would exceed the whole.
    assert times["inner"] >= 0.04 and times["outer"] >= 0.02
    assert sum(times.values()) <= taken


def test_parts_are_those_of_one_round():
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 5.0, "b": 5.0}, {"a": 2.0, "b": 2.0}]
    assert median_round(rounds) == rounds[2] and spread(rounds) == pytest.approx(3.5)


def test_fused_mask_heads_count_once():
    needs = {f"mask stage {n}": Need(1e9, 1e6, [(1e9, 1e6)]) for n in (1, 2, 3)}
    row = Run("x", "eager", "bfloat16", [{"mask stages": 0.1, "rest": 0.1}], needs).row(LIMITS)
    sums_hold(row)
    assert row["gflop"] == pytest.approx(3) and row["parts"]["mask stages"]["gflop"] == pytest.approx(3)
    assert set(row["parts"]["mask stages"]["stages"]) == set(needs)


def test_a_limit_is_product_or_copy():
    assert LIMITS.seconds(1e11, 0, "float32") == 1 and LIMITS.seconds(0, 1e10, "float32") == 1
    need = Need(0, 8e9, [(0, 4e9), (0, 4e9)])
    assert need.seconds(LIMITS) == pytest.approx(0.8) and need.seconds(LIMITS, "bfloat16") == pytest.approx(0.4)


def test_processors_are_told_apart():
    name = limits.device_name(torch.device("cpu"))
    assert torch.backends.cpu.get_cpu_capability().lower().replace("_", "-") in name
    assert name.endswith(f"{torch.get_num_threads()}-cores")
