"""The average of the weights: its values, where it is used, and that nothing of it is lost on the way."""

import os
import signal

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from htc_fast import UserError
from htc_fast.training import checkpoint
from htc_fast.training.distributed import World
from htc_fast.training.ema import Average
from htc_fast.training.loop import Loop
from htc_fast.training.report import Report
from tests.training.clock import timed_loop
from tests.training.tiny import tiny_batches, tiny_model, tiny_recipe


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    return model


def moved(model, seed):
    """The model after something like a step, from a place that only the seed knows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, one in model.state_dict().items():
            if "tracked" in name:
                one += 1
            elif not name.startswith("2."):
                one.copy_(torch.randn(one.shape, generator=generator))
    return {name: one.clone() for name, one in model.state_dict().items()}


def copied(model):
    return {name: one.clone() for name, one in model.state_dict().items()}


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_the_average_by_its_definition():
    model = small()
    average, expected = Average(model, 0.3), {name: one.double() for name, one in copied(model).items()}
    # (1 + n) / (10 + n) as long as that is less than 0.3.
    for n, decay in enumerate((0.1, 2 / 11, 3 / 12, 4 / 13 if 4 / 13 < 0.3 else 0.3, 0.3)):
        now = moved(model, n)
        average.update()
        for name, one in now.items():
            expected[name] = decay * expected[name] + (1 - decay) * one.double()
    live = copied(model)
    with average.shown():
        found = copied(model)
    assert average.updates == 5 and differing(live, copied(model)) == []
    for name, one in found.items():
        if "tracked" in name:
            assert one == 5  # a count is no average
        else:
            torch.testing.assert_close(one.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert {"0.weight", "1.running_var"} <= set(differing(live, found)) and torch.equal(live["2.bias"], found["2.bias"])


def test_only_what_changes_takes_memory():
    model = small()
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert Average(model, 0.9).names == names
    assert Average(model, 0.0).kept == []


def test_weights_stay_where_they_are_and_say_that_they_changed():
    model = small()
    average = Average(model, 0.9)
    moved(model, 1)
    places, version = [one.data_ptr() for one in model.parameters()], model[0].weight._version
    average.show()
    average.show()
    assert average.on and [one.data_ptr() for one in model.parameters()] == places
    assert model[0].weight._version > version and model[0].weight.requires_grad
    shown = copied(model)
    with average.shown():
        assert differing(shown, copied(model)) == []
    assert average.on and differing(shown, copied(model)) == []
    average.hide()
    assert not average.on and differing(shown, copied(model)) != []


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA device, not even by name")
def test_nothing_waits_for_a_gpu():
    with FakeTensorMode():
        model = nn.Linear(3, 2, device="cuda")
        average = Average(model, 0.9)
        average.update()
        with average.shown():
            assert model.weight.device.type == "cuda"


def test_all_processes_show_the_statistics_of_the_main_one(monkeypatch):
    model, sent = small(), []
    average = Average(model, 0.9, World(rank=1, size=2))
    monkeypatch.setattr(dist, "broadcast", lambda one, source: sent.append((one.fill_(7.0), source)))
    moved(model, 1)
    average.show()
    assert [source for _, source in sent] == [0, 0]
    assert model[1].running_var.tolist() == model[1].running_mean.tolist() == [7.0, 7.0]
    assert model[0].weight.max() < 7


ALL = {"ema": 0.9, "optimizer": "adamw", "no_decay": True, "layer_decay": 0.5, "accumulate": 2, "save_every": 0}


def loop(folder, seed=0, **options):
    model = tiny_model(seed)
    model.backbone.norm_eval = False  # statistics that run
    return Loop(model, tiny_batches(), tiny_recipe(**{"iterations": 4, **ALL, **options}), folder)


def test_a_stopped_run_ends_as_if_never_stopped(tmp_path):
    whole = loop(tmp_path / "whole")
    whole.run()
    first = loop(tmp_path / "parts", iterations=2)
    first.run()
    rest = loop(tmp_path / "parts", seed=1)
    assert rest.resume() and rest.average.updates == 2
    rest.run()
    # The model holds the average, and the average's place the weights as they are trained.
    assert rest.average.on and rest.average.updates == 4
    assert differing(copied(whole.model), copied(rest.model)) == []
    assert all(torch.equal(*pair) for pair in zip(whole.average.kept, rest.average.kept, strict=True))
    assert differing(copied(first.model), copied(rest.model)) != []
    trained = {name: one for name, one in zip(rest.average.names, rest.average.kept)}
    saved = safetensors.torch.load_file(checkpoint.whole(tmp_path / "parts" / "checkpoints")[-1])
    assert len(trained) > 50 and differing(trained, saved) == [] and differing(trained, copied(rest.model)) != []
    assert any("running" in name for name in trained)
    written = safetensors.torch.load_file(tmp_path / "parts" / "model.safetensors")
    assert differing(written, copied(rest.model)) == []


def test_a_run_that_is_asked_for_twice_holds_the_average_both_times(tmp_path):
    made = loop(tmp_path)
    made.run()
    first = copied(made.model)
    assert made.resume()
    made.run()
    assert made.average.on and differing(first, copied(made.model)) == []


def test_what_is_evaluated_kept_and_drawn_is_the_average(tmp_path):
    made = timed_loop(tmp_path, lambda step: 1.0, length=3, epochs=2, evaluate_every=1, ema=0.5)
    weight, seen = made.model.rpn.objectness.weight, []
    update = made.update

    def step(batches):
        with torch.no_grad():
            weight.fill_(made.at.iteration + 1.0)
        made.average.update()
        assert not made.average.on
        return update(batches)

    def evaluate(model):
        seen.append(weight.flatten()[0].item())
        return {"mask_AP": float(len(seen))}

    def picture(model, path, seconds):
        seen.append(weight.flatten()[0].item())
        return ""

    with torch.no_grad():
        weight.zero_()
    made.average.restore(None)
    made.update, made.evaluate, made.picture = step, evaluate, picture
    made.run()
    expected, values = 0.0, []
    for n, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15)):
        expected = decay * expected + (1 - decay) * (n + 1)
        values.append(expected)
    assert seen == pytest.approx([values[2], values[5], values[5]])
    for name, value in (("best.safetensors", values[5]), ("model.safetensors", values[5])):
        found = safetensors.torch.load_file(tmp_path / name)["rpn.objectness.weight"]
        assert found.flatten()[0].item() == pytest.approx(value)
    trained = safetensors.torch.load_file(checkpoint.whole(tmp_path / "checkpoints")[-1])
    assert trained["rpn.objectness.weight"].unique().tolist() == [6.0]


def test_an_average_begins_with_the_weights_of_a_checkpoint_without(tmp_path, capsys):
    loop(tmp_path, iterations=1, ema=0.0).run()
    other = loop(tmp_path, seed=1)
    assert other.resume() and other.average.updates == 0
    said = capsys.readouterr().err
    assert "ema was 0 and is now 0.9" in said and "has no average of the weights: one begins with its weights" in said
    saved = safetensors.torch.load_file(checkpoint.whole(tmp_path / "checkpoints")[-1])
    assert differing(dict(zip(other.average.names, other.average.kept)), saved) == []


def test_an_average_that_is_no_longer_wanted(tmp_path, capsys):
    loop(tmp_path, iterations=1).run()
    capsys.readouterr()
    other = loop(tmp_path, seed=1, ema=0.0)
    assert other.resume()
    said = capsys.readouterr().err
    assert "ema was 0.9 and is now 0" in said and "average of the weights is left: they count" in said
    saved = safetensors.torch.load_file(checkpoint.whole(tmp_path / "checkpoints")[-1])
    assert differing(saved, copied(other.model)) == []


@pytest.mark.parametrize("damage", ["a weight less", "another shape", "half a step", "nothing"])
def test_a_damaged_average_is_one_sentence(tmp_path, damage):
    timed_loop(tmp_path, lambda step: 1.0, stop=1, epochs=1, ema=0.9).run()
    path = checkpoint.whole(tmp_path / "checkpoints")[-1].with_suffix(".state")
    state = torch.load(path)
    weights = state["average"]["weights"]
    if damage == "a weight less":
        weights.popitem()
    elif damage == "another shape":
        weights["rpn.objectness.weight"] = torch.zeros(3)
    elif damage == "half a step":
        state["average"]["updates"] = 0.5
    else:
        state["average"] = {}
    torch.save(state, path)
    with pytest.raises(UserError, match=r"000001\.state is no state of a run of ours"):
        timed_loop(tmp_path, lambda step: 1.0, epochs=1, ema=0.9).resume()


def test_interrupted_while_the_average_is_evaluated(tmp_path):
    made = timed_loop(tmp_path, lambda step: 1.0, epochs=2, evaluate_every=1, ema=0.9)

    def evaluate(model):
        assert made.average.on
        os.kill(os.getpid(), signal.SIGINT)
        return {"mask_AP": 0.0}

    update = made.update

    def step(batches):
        moved(made.model.rpn, made.at.iteration)
        made.average.update()
        return update(batches)

    made.update, made.evaluate = step, evaluate
    assert made.run().iteration == 10 and made.stopping
    rest = timed_loop(tmp_path, lambda step: 1.0, epochs=2, ema=0.9)
    assert rest.resume() and rest.average.updates == 10
    made.average.hide()
    assert differing(copied(made.model), copied(rest.model)) == []
    assert all(torch.equal(*pair) for pair in zip(made.average.kept, rest.average.kept, strict=True))
