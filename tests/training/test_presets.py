"""Recipes by name: what they set, and that what is given wins."""

import sys
from dataclasses import fields, replace

import pytest

from htc_fast import UserError, train
from htc_fast.ablation.run import AblationRun
from htc_fast.commands.options import given
from htc_fast.training import Trainer, TrainingRun, presets
from htc_fast.training.trainer import make_config
from tests.data.builder import write
from tests.training.test_run import small_run

SWIN = "swin_tiny_patch4_window7_224"


def test_the_paper_s_recipe_is_the_defaults():
    assert TrainingRun(recipe="paper") == TrainingRun() == TrainingRun.from_recipe()
    assert TrainingRun.from_recipe("paper", lr=0.1) == TrainingRun(lr=0.1)


def test_strong():
    run = TrainingRun.from_recipe("strong", data="x", batch_size=4)
    assert (run.image_size, run.jitter, run.copy_paste, run.epochs) == ((1024, 1024), "large", 0.5, 36.0)
    assert (run.optimizer, run.weight_decay, run.no_decay, run.layer_decay) == ("adamw", 0.05, True, 1.0)
    assert (run.ema, run.schedule, run.clip, run.warmup) == (0.9998, "cosine", 35.0, 500)
    assert run.set == {"box_loss": "giou", "box_loss_weight": 10.0}
    # 1e-4 for 16 pictures, by the root.
    assert run.plan(4).schedule.rate == pytest.approx(1e-4) and run.plan().schedule.rate == pytest.approx(0.5e-4)
    plan = run.plan()
    assert (plan.ema, plan.no_decay, plan.layer_decay, plan.clip) == (0.9998, True, 1.0, 35.0)


def test_small_data_is_gentler():
    run, strong = TrainingRun(recipe="small-data"), TrainingRun(recipe="strong")
    assert run.jitter == "standard" and run.repeat == 0.1 and run.set["frozen_stages"] == 2
    assert (
        run.lr == 5e-5 < strong.plan(8).schedule.rate and run.ema == 0.999 < strong.ema and run.epochs > strong.epochs
    )
    assert make_config(run).frozen_stages == 2


def test_what_only_some_backbones_have():
    plain, swin = (TrainingRun(recipe="strong", backbone=name) for name in ("resnet50", SWIN))
    assert (plain.layer_decay, swin.layer_decay) == (1.0, 0.9)
    assert "drop_path" not in plain.set and swin.set["drop_path"] == 0.2
    convnext = TrainingRun(recipe="strong", backbone="convnext_tiny.fb_in22k")
    assert convnext.set["drop_path"] == 0.2 and convnext.layer_decay == 1.0
    assert TrainingRun(recipe="small-data", backbone=SWIN).layer_decay == 0.9
    # The model's own backbone, and its own share.
    named = TrainingRun(recipe="strong", model="htcpp_swin_t")
    assert named.layer_decay == 0.9
    own = make_config(TrainingRun(model="htcpp_swin_t")).drop_path
    assert make_config(named).drop_path == (own or 0.2)


def test_what_is_given_wins():
    for run in (
        TrainingRun(recipe="strong", ema=0.0, epochs=3, set={"box_loss": "smooth_l1", "channels": 64}),
        TrainingRun.from_recipe("strong", ema=0.0, epochs=3, set={"box_loss": "smooth_l1", "channels": 64}),
    ):
        assert (run.ema, run.epochs, run.jitter) == (0.0, 3.0, "large")
        # A weight of ten belongs to GIoU.
        assert run.set == {"box_loss": "smooth_l1", "channels": 64}
    # Also where it is the default.
    assert TrainingRun(recipe="strong", image_size=(800, 1333)).image_size == (800, 1333)
    # Another optimizer comes with its own rate and decay.
    run = TrainingRun(recipe="small-data", optimizer="sgd")
    assert (run.lr, run.weight_decay, run.plan(8).schedule.rate, run.jitter) == (None, 1e-4, 0.02, "standard")


def test_what_it_takes_the_place_of_is_left_out():
    for name, value in {"train_sizes": (400, 1400, 1600), "scales": (0.5, 2.0), "crop": 128}.items():
        run = TrainingRun(recipe="strong", **{name: value})
        assert run.jitter == "none" and getattr(run, name) == value and run.copy_paste == 0.5
        run = TrainingRun.sample(recipe="strong", **{name: value})
        assert run.jitter == "none" and getattr(run, name) == value and run.ema == 0.9998
    run = TrainingRun(recipe="strong", steps=(0.5, 0.9))
    assert (run.schedule, run.steps) == ("step", (0.5, 0.9))
    with pytest.raises(UserError, match="or give --jitter none"):
        TrainingRun(recipe="strong", crop=128, jitter="large")
    run = TrainingRun.sample(recipe="strong", set={"box_loss": "smooth_l1"})
    assert run.set == {**TrainingRun.sample().set, "box_loss": "smooth_l1"}


def test_a_copy_keeps_all_else():
    run = TrainingRun(recipe="strong", set={"channels": 64})
    bare = replace(run, set={}, ema=0.0, copy_paste=0.0)
    assert (bare.set, bare.ema, bare.copy_paste, bare.jitter) == ({}, 0.0, 0.0, "large") and replace(run) == run


def test_the_sample_stays_small():
    plain = TrainingRun.sample()
    for name in ("strong", "small-data"):
        run = TrainingRun.sample(recipe=name)
        for one in ("image_size", "epochs", "lr", "warmup", "backbone", "max_minutes", "batch_size", "amp"):
            assert getattr(run, one) == getattr(plain, one), one
        assert run.set == {**plain.set, **presets.PRESETS[name]["set"]}
        assert (run.jitter, run.crop, run.scales) == (presets.PRESETS[name]["jitter"], None, (1.0, 1.0))
        assert run.ema == presets.PRESETS[name]["ema"] and run.no_decay and run.copy_paste == 0.5
    assert TrainingRun.sample(recipe="paper") == plain and (plain.ema, plain.crop) == (0.0, 256)
    assert TrainingRun.sample(recipe="strong", epochs=8.0).epochs == 8
    plain = TrainingRun.sample(recipe="strong", jitter="none")
    assert (plain.crop, plain.scales, plain.ema) == (256, (0.8, 1.25), 0.9998)


def asked(monkeypatch, *words):
    """The run that a command line makes."""
    runs = []

    def stop(run, **_):
        runs.append(run)
        raise UserError("enough")

    monkeypatch.setattr(train, "Trainer", stop)
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    with pytest.raises(UserError, match="enough"):
        train.main()
    return runs[0]


def test_from_the_command_line(monkeypatch):
    strong = asked(monkeypatch, "--recipe", "strong", "--data", "x", "--ema", 0.5, "--set", "box_loss_weight=2.0")
    wanted = TrainingRun.from_recipe("strong", data="x", ema=0.5, set={"box_loss_weight": 2.0})
    assert strong == wanted and strong.set == {"box_loss": "giou", "box_loss_weight": 2.0}
    sample = asked(monkeypatch, "--recipe", "strong", "--iterations", 9, "--set", "channels=32", "--backbone", SWIN)
    assert sample.set == {**TrainingRun.sample(recipe="strong", backbone=SWIN).set, "channels": 32}
    assert (sample.iterations, sample.max_minutes, sample.layer_decay, sample.lr) == (9, None, 0.9, 3e-4)
    assert asked(monkeypatch, "--no-amp") == TrainingRun.sample(amp=False)
    assert asked(monkeypatch, "--data", "x") == TrainingRun(data="x")


def test_help_names_them(capsys):
    with pytest.raises(SystemExit):
        given(TrainingRun, "train", "", ["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--recipe {paper,strong,small-data}" in told and "to fine-tune on few pictures" in told


def test_every_value_is_a_field_of_a_run_or_of_its_network():
    names = {one.name for one in fields(TrainingRun)}
    for values in presets.PRESETS.values():
        assert values.keys() <= names
    for name in presets.PRESETS:
        make_config(TrainingRun(recipe=name))
    assert presets.LONG | presets.OPTIMIZER <= names


def test_described():
    run = TrainingRun(recipe="strong")
    assert presets.described(run) == "recipe strong"
    assert presets.described(TrainingRun()) == "recipe paper"
    changed = replace(run, lr=0.1, ema=0.0, set={**run.set, "box_loss": "smooth_l1"}, seed=3, out="y")
    assert presets.described(changed) == "recipe strong but for lr, ema, box_loss"
    # A name alone does not make it one.
    assert presets.described(replace(TrainingRun(), recipe="strong")).startswith("recipe strong but for image_size, ")


def test_a_run_says_its_recipe_and_has_what_it_says(tmp_path):
    write(tmp_path, split="train")
    root = write(tmp_path, split="val")
    options = {"recipe": "strong", "jitter": "none", "copy_paste": 0.0, "iterations": 1}
    trainer = Trainer(small_run(root, tmp_path / "run", **options))
    _, second = trainer.describe().splitlines()
    assert second.startswith("recipe strong but for image_size, ") and "box_loss" not in second
    assert trainer.loop.average.decay == 0.9998 and trainer.model.config.box_loss == "giou"
    assert {group["weight_decay"] for group in trainer.loop.optimizer.param_groups} == {0.0, 0.05}


def test_an_ablation_has_the_paper_s():
    assert AblationRun.small().recipe == "paper"
    with pytest.raises(SystemExit):
        given(AblationRun, "ablate", "", ["--recipe", "strong"])


WRONG = {
    "recipe": ("best", r"--recipe takes one of paper, strong, small-data, got 'best'"),
    "ema": (1.0, r"--ema takes a number from 0 to below 1, got 1\.0"),
    "layer_decay": (0.0, r"--layer-decay takes a number above 0 to 1, got 0\.0"),
    "no_decay": ("yes", "--no-decay takes a value of type bool"),
    "checkpoint_backbone": (1, "--checkpoint-backbone takes a value of type bool"),
}
OUTSIDE = [("ema", -0.1), ("ema", float("nan")), ("ema", 7), ("layer_decay", 1.5), ("layer_decay", float("nan"))]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_one_sentence(name):
    value, wanted = WRONG[name]
    with pytest.raises(UserError, match=wanted):
        TrainingRun(**{name: value})


def test_shares_outside_their_bounds():
    for name, value in OUTSIDE:
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} takes a number"):
            TrainingRun(**{name: value})
    assert TrainingRun(ema=0.0, layer_decay=1.0) == TrainingRun()
