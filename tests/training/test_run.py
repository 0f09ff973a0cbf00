"""From options to data and model, without a process of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from htc_fast import UserError, cores
from htc_fast.commands.options import changed, given
from htc_fast.detector import load
from htc_fast.errors import say_once
from htc_fast.evaluation import evaluate
from htc_fast.training import Trainer, TrainingRun, trainer
from htc_fast.training.distributed import World
from htc_fast.training.folder import choose_folder, held
from htc_fast.training.trainer import make_config, make_datasets
from tests.data.builder import instance, two_pictures, write
from tests.training.tiny import SMALL


@pytest.fixture
def root(tmp_path):
    write(tmp_path, split="train")
    return write(tmp_path, split="val")


def datasets(run):
    config = make_config(run)
    return config, *make_datasets(run, config)


def test_derived_maps_are_said_once(root, capsys):
    say_once.cache_clear()
    for _ in range(2):
        _, train, _ = datasets(TrainingRun(data=root))
    assert train.semantic_classes == 4
    assert capsys.readouterr().err.count("derived from the instance masks") == 1


def test_maps_wanted_derived_or_not_at_all(root, capsys):
    say_once.cache_clear()
    config, train, _ = datasets(TrainingRun(data=root, semantic="derive"))
    assert config.semantic == "both" and train.semantic_classes == 4
    config, train, _ = datasets(TrainingRun(data=root, semantic="none"))
    assert config.semantic == "none" and train.maps is None
    assert not capsys.readouterr().err


def test_held_out_pictures_need_annotations(tmp_path):
    write(tmp_path, split="train")
    write(tmp_path, {key: value for key, value in two_pictures().items() if key != "annotations"})
    with pytest.raises(UserError, match=r"has no annotations.*--val-json"):
        datasets(TrainingRun(data=tmp_path))


def test_the_papers_multi_scale(root):
    _, train, val = datasets(TrainingRun(data=root, train_sizes=(40, 60, 70), flip="none"))
    sides = {tuple(sorted(train[0]["image"].shape[1:])) for _ in range(40)}
    assert len(sides) > 8 and min(sides)[0] >= 40 and max(sides)[1] <= 70 and val.transform is None
    with pytest.raises(UserError, match="--train-sizes"):
        TrainingRun(data=root, train_sizes=(90, 60, 70))


def test_a_model_s_name_says_that_it_is_trained_at_many_sizes(root):
    assert make_config(TrainingRun(data=root, model="htc_r50_mstrain")).train_sizes == (400, 1400, 1600)
    # Sizes are for pictures of 800 pixels, and shrink with them; what is asked for stays.
    config, train, _ = datasets(TrainingRun(data=root, model="htc_r50_mstrain", image_size=(80,), flip="none"))
    assert config.train_sizes == (40, 140, 160)
    sides = {tuple(sorted(train[0]["image"].shape[1:])) for _ in range(60)}
    assert len(sides) > 20 and min(sides)[0] >= 40 and max(side[1] for side in sides) <= 160
    # A name may bring the size of evaluations, too, which its own sizes go with.
    run = TrainingRun(data=root, model="htcpp_swin_t", pretrained=False)
    assert run.image_size == (1400, 1600) and make_config(run).train_sizes == (400, 1400, 1600)
    assert make_config(replace(run, image_size=(700, 800))).train_sizes == (200, 700, 800)
    assert TrainingRun(data=root).image_size == (800, 1333)
    config, train, _ = datasets(TrainingRun(data=root, model="htc_r50_mstrain", train_sizes=(50, 50, 60)))
    assert config.train_sizes == (50, 50, 60) and max(train[0]["image"].shape[1:]) <= 60


def words(*options):
    return given(TrainingRun, "train", "", [*map(str, options)])


def test_a_list_of_values():
    run = changed(TrainingRun(), words("--set", "match_iou=[0.4,0.6,0.7]"))
    assert make_config(run).stages.match_iou == (0.4, 0.6, 0.7)


def test_switches_as_python_and_as_json_write_them():
    run = changed(TrainingRun(), words("--set", "gcn=true", "--set", "dcn=[5]", "--set", "norm_eval=False"))
    config = make_config(run)
    assert config.gcn is True and config.dcn == (5,) and config.norm_eval is False
    assert make_config(changed(TrainingRun(), words("--set", "rpn=ga"))).rpn.guided


def test_what_is_set_is_added_to_the_sample_s():
    run = changed(TrainingRun.sample(), words("--set", "channels=48", "--set", "samples=16", "--no-amp", "--crop", 64))
    assert run.set == {**TrainingRun.sample().set, "channels": 48, "samples": 16}
    assert (run.amp, run.crop, run.lr) == (False, 64, TrainingRun.sample().lr)


def test_the_command_line_is_the_dataclass():
    found = words("--data", "x", "--scales", 0.5, 2, "--image-size", 300, "--schedule", "cosine", "--turn")
    assert found == {"data": Path("x"), "scales": (0.5, 2.0), "image_size": (300,), "schedule": "cosine", "turn": True}
    assert changed(TrainingRun(), found) == TrainingRun(
        data="x", scales=(0.5, 2.0), image_size=(300,), schedule="cosine", turn=True
    )


def test_from_python(root, tmp_path, monkeypatch):
    """Three lines, and what they leave is a detector that knows its classes."""
    run = small_run(root, tmp_path / "run", iterations=2, threads=torch.get_num_threads())
    trainer = Trainer(run)
    assert not (tmp_path / "run").exists()
    model = trainer.run()
    assert not model.training and trainer.loop.at.iteration == 2
    loaded = load(tmp_path / "run" / "model.safetensors")
    assert loaded.config == model.config and loaded.config.class_names == tuple(trainer.train.classes)
    assert {name: value for name, value in evaluate(loaded, trainer.val, progress=False).items()}.keys() >= {"mask_AP"}
    with pytest.raises(UserError, match="holds a run already"):
        Trainer(run)


@pytest.mark.parametrize("changes, fixed", [({}, []), ({"threads": 1}, [1]), ({"compile": True}, [None])])
def test_who_fixes_the_threads(root, tmp_path, monkeypatch, changes, fixed):
    found = []
    monkeypatch.setattr(cores, "hold", found.append)
    Trainer(small_run(root, tmp_path / "run", iterations=1, **changes))
    assert found == fixed


def test_the_sample_s_limit_of_time_gives_way_to_a_length():
    assert TrainingRun.sample().max_minutes == 4.5
    assert TrainingRun.sample(epochs=8.0).max_minutes is None and TrainingRun.sample(iterations=9).max_minutes is None
    assert TrainingRun.sample(epochs=8.0, max_minutes=2).max_minutes == 2
    assert TrainingRun().max_minutes is None


def test_a_folder_in_use_is_not_the_next_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = choose_folder(TrainingRun(data="x"), World())
    assert first == Path("runs/train")
    with held(first):
        assert choose_folder(TrainingRun(data="x"), World()) == Path("runs/train-2")
        (first / "checkpoints").mkdir()
    assert choose_folder(TrainingRun(data="x"), World()) == Path("runs/train-2")
    assert choose_folder(TrainingRun(data="x", resume=True), World()) == first
    with pytest.raises(UserError, match="holds a run already"):
        choose_folder(TrainingRun(data="x", out=first), World())


def test_one_process_chooses_the_folder(tmp_path, monkeypatch):
    class Second(World):
        def max(self, number):
            return max(number, 1)

    monkeypatch.chdir(tmp_path)
    Path("runs/train").mkdir(parents=True)
    with held(Path("runs/train-2")):
        assert choose_folder(TrainingRun(data="x"), World()) == Path("runs/train")
        assert choose_folder(TrainingRun(data="x"), Second(rank=1, size=2)) == Path("runs/train-2")


def small_run(root, out, **options):
    size = {"backbone": "test_resnet", "pretrained": False, "image_size": (64, 96), "set": SMALL}
    return TrainingRun(data=root, out=out, **{**size, "lr": 1e-3, **options})


def test_a_limit_of_time_foresees_the_end_on_the_held_out_pictures(root, tmp_path, capsys):
    say_once.cache_clear()
    content = two_pictures()
    content["annotations"] += [instance(11, 3, 2 + n, 1, 9, 9) for n in range(12)]
    write(root, content, "val")
    settings = {**SMALL, "detections": 10}
    trainer = Trainer(small_run(root, tmp_path / "run", epochs=1, max_minutes=5, set=settings))
    trainer.run()
    seconds, _ = trainer.loop.pace.cost
    assert trainer.loop.at.epoch == 1 and 0 < seconds < 60
    assert (tmp_path / "run" / "evaluations.csv").exists() and (tmp_path / "run" / "predictions.png").exists()
    assert "report.html" in {path.name for path in (tmp_path / "run").iterdir()}
    # Seen by the forecast and by the evaluation.
    assert capsys.readouterr().err.count("of which the model finds at most 10") == 1


def test_weights_of_the_backbone_come_where_there_is_nothing_to_resume(root, tmp_path, monkeypatch):
    asked = []

    def make_model(config, run, train):
        asked.append(run.resume)
        raise UserError("enough")

    monkeypatch.setattr(trainer, "make_model", make_model)
    for _ in range(2):
        with pytest.raises(UserError, match="enough"):
            Trainer(small_run(root, tmp_path / "run", resume=True))
        (tmp_path / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
        for suffix in ("state", "safetensors"):
            (tmp_path / "run" / "checkpoints" / f"000003.{suffix}").touch()
    assert asked == [False, True]


def test_processes_need_the_same_data(root, tmp_path):
    class Apart(World):
        def max(self, number):
            return 3.0

    with pytest.raises(UserError, match=r"is not the same for all processes: give each of them the same files"):
        Trainer(small_run(root, tmp_path / "run"), Apart())


def test_a_warm_up_longer_than_the_run_is_said(root, tmp_path, capsys):
    Trainer(small_run(root, tmp_path / "run", iterations=1)).run()
    assert "the warm-up is 500 of 1 steps, so the learning rate never reaches its value: set warmup to 0 or so" in (
        capsys.readouterr().err
    )


WRONG = {
    "schedule": (10**5000, r"one of step, cosine, got a value too long to show \(int\)"),
    "flip": (True, "one of none, horizontal, both"),
    "optimizer": ("sdg", "did you mean sgd"),
    "model": ("htc_r5O", "did you mean htc_r50"),
    "batch_size": (2.5, "a value of type int"),
    "image_size": (800, "a list of int"),
    "scales": ((1, 2, 3), "a list of 2 float"),
    "amp": (1, "a value of type bool"),
    "data": (3, "a path"),
    "set": ("channels=3", "a dict"),
    "lr": (float("nan"), r"--lr takes a finite number above 0, got nan \(float\)"),
    "epochs": (10**400, "--epochs takes a smaller number, got 1000"),
    "warmup": (10**400, "--warmup takes a whole number from 0 to 2147483647, got 1000"),
    "accumulate": (10**5000, r"--accumulate takes .*, got a value too long to show \(int\)"),
    "seed": (10**400, "--seed takes a whole number from -"),
    "train_sizes": (
        (400, 300, 600),
        r"--train-sizes .*\(LOW, HIGH\), the smaller first, got \(400, 300\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_from_python_are_one_sentence(name):
    value, wanted = WRONG[name]
    with pytest.raises(UserError, match=wanted):
        TrainingRun(**{name: value})


def test_values_come_to_their_types():
    run = TrainingRun(data="x", image_size=[300], scales=[1, 2], lr=1)
    assert (run.data, run.image_size, run.scales, run.lr) == (Path("x"), (300,), (1.0, 2.0), 1.0)
