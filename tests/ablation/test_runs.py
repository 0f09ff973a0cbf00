"""Runs of two small models: nothing is done twice, an interrupted one goes on, other settings are noticed."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from htc_fast.ablation import one, runs, side, tables
from htc_fast.ablation.report import markdown
from htc_fast.ablation.run import AblationRun
from htc_fast.data.sample import make_sample_dataset
from htc_fast.errors import UserError
from htc_fast.training import loop
from tests.training.tiny import SMALL

MODELS = "mask_rcnn_r50", "mask_rcnn_r50_interleaved"
TINY = {"backbone": "test_resnet", "pretrained": False, "image_size": (64, 64), "crop": 64, "iterations": 3}
TINY |= {"warmup": 1, "amp": False, "tables": (3,), "seeds": 1, "threads": 1, "set": SMALL}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_sample_dataset(tmp_path_factory.mktemp("data") / "sample", train=4, val=2)


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Table 3 with its first two rows."""
    monkeypatch.setitem(tables.TABLES, 3, replace(tables.TABLES[3], rows=tables.TABLES[3].rows[:2]))
    return AblationRun.small(**TINY, data=data, out=tmp_path / "out")


def carried(run):
    said: list[str] = []
    return list(runs.ablate(run, said.append)), said


def untrainable(*_):
    raise AssertionError("there was nothing to train")


def test_all_runs_are_made_and_none_twice(run, monkeypatch):
    results, said = carried(run)
    assert [len(result["runs"]) for result in results] == [0, 1, 2]
    assert said[0] == "0 of 2 runs are there, 2 to do" and "1 left, about" in said[1] and "the last one" in said[2]
    last = results[-1]
    assert [one["model"] for one in last["runs"]] == [*MODELS] and last["tables"] == [3]
    for found in last["runs"]:
        assert found["iterations"] == 3 and found["stages"]["ensemble"]["pictures"] == 2
        assert 0 <= found["stages"]["ensemble"]["box_AP"] <= 1
        folder = run.folder / "runs" / f"{found['model']}-seed0"
        assert (folder / "model.safetensors").exists() and not (folder / "checkpoints").exists()
    monkeypatch.setattr(one, "Trainer", untrainable)
    again, said = carried(run)
    assert again[0]["runs"] == last["runs"] and len(again) == 1 and said == ["2 of 2 runs are there, 0 to do"]
    # A call that ended right behind the weights left no scores: the file says how long it was trained.
    (folder / one.SCORES).unlink()
    again, _ = carried(run)
    assert [found["iterations"] for found in again[-1]["runs"]] == [3, 3] and "3 steps of" in markdown(again[-1])
    (folder / one.SCORES).unlink()
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=rf"Delete .*{folder.name}, and it is trained again"):
        carried(run)


def test_a_further_table_tests_what_it_needs_and_trains_nothing_again(run, monkeypatch):
    first = runs.plan(run)[0]
    assert one.carry_out(first)["stages"].keys() == {"ensemble"}
    monkeypatch.setattr(one, "Trainer", untrainable)
    more = replace(first, stages=(None, 1))
    assert more.scores() is None
    assert one.carry_out(more)["stages"].keys() == {"ensemble", "stage 1"}
    assert more.scores()["iterations"] == 3


def test_other_settings_are_noticed(run, data, tmp_path):
    runs.check_settings(run.folder / "settings.json", runs.describe(run))
    for changes in ({"tables": (2,), "seeds": 5, "jobs": 2, "threads": 2}, {}):
        runs.check_settings(run.folder / "settings.json", runs.describe(replace(run, **changes)))
    with pytest.raises(UserError, match=r"\(lr was 0\.0005 and is now 0\.1\), which do not compare"):
        next(runs.ablate(replace(run, lr=0.1), print))
    other = make_sample_dataset(tmp_path / "other", train=5, val=2)
    with pytest.raises(UserError, match="training data was '4 pictures"):
        next(runs.ablate(replace(run, data=other), print))
    (run.folder / "settings.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        next(runs.ablate(run, print))


def test_settings_of_an_earlier_version_had_the_usual_values(run):
    settings = runs.describe(run)
    path = run.folder / "settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({name: one for name, one in settings.items() if name not in ("jitter", "ema", "recipe")})
    )
    then = path.read_text()
    with pytest.raises(UserError, match=r"ema was 0\.0 and is now 0\.5"):
        runs.check_settings(path, runs.describe(replace(run, ema=0.5)))
    assert path.read_text() == then
    runs.check_settings(path, settings)


def test_torchrun_is_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without torchrun"):
        next(runs.ablate(run, print))


def test_an_interrupted_run_goes_on_as_if_never_stopped(run, tmp_path, monkeypatch):
    whole = one.carry_out(runs.plan(replace(run, out=tmp_path / "whole"))[0])
    fetch, calls = loop.fetch, []

    def interrupted(batches, device):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return fetch(batches, device)

    monkeypatch.setattr(loop, "fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carried(run)
    folder = run.folder / "runs" / f"{MODELS[0]}-seed0"
    assert (folder / "checkpoints" / "000002.state").exists() and not (folder / "scores.json").exists()
    results, _ = carried(run)
    assert results[-1]["runs"][0]["stages"]["ensemble"]["box_AP"] == whole["stages"]["ensemble"]["box_AP"]
    places = folder, tmp_path / "whole" / "runs" / folder.name
    ours, theirs = (load_file(place / "model.safetensors") for place in places)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and len(calls) == 6


def test_models_of_one_seed_start_from_the_same_values(run):
    def start(model, seed=0, share=True):
        own = runs.plan(run)[0].run
        made = one.Trainer(replace(own, model=model, seed=seed)).model
        if share:
            one.share_start(made, replace(own, seed=seed))
        return dict(made.named_parameters())

    whole, flat, bare = start("htc_r50"), start("mask_rcnn_r50"), start("mask_rcnn_r50", share=False)
    assert torch.equal(whole["mask_heads.0.logits.weight"], flat["mask_heads.0.logits.weight"])
    assert not torch.equal(whole["mask_heads.0.logits.weight"], bare["mask_heads.0.logits.weight"])
    differing = [name for name in flat if name in whole and not torch.equal(flat[name], whole[name])]
    assert all(flat[name].shape != whole[name].shape for name in differing) and 0 < len(differing) < 5
    assert not torch.equal(start("htc_r50", seed=1)["fpn.lateral.0.weight"], whole["fpn.lateral.0.weight"])


@pytest.mark.slow
def test_side_by_side(run):
    results, said = carried(replace(run, jobs=2))
    assert [one["model"] for one in results[-1]["runs"]] == [*MODELS] and "what they say is in" in said[0]
    assert "3 iterations" in (run.folder / "runs" / f"{MODELS[1]}-seed0" / side.LOG).read_text()
    broken = run.folder / "runs" / f"{MODELS[0]}-seed0" / "scores.json"
    broken.write_text(json.dumps({"stages": {}}))
    (broken.parent / "model.safetensors").write_bytes(b"broken")
    tasks = [task for task in runs.plan(run) if task.scores() is None]
    with pytest.raises(UserError, match=f"{MODELS[0]}, seed 0: .*model.safetensors"):
        list(side.side_by_side(tasks, 2))


def test_a_process_that_nobody_waits_for_stops_itself(monkeypatch):
    killed = []
    monkeypatch.setattr(side.os, "kill", lambda *told: killed.append(told))
    side._leave_behind(parent=-1)
    assert killed == [(os.getpid(), signal.SIGINT)]
