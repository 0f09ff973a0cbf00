"""A dry run carries out one step of everything, foresees the run, and leaves nothing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from htc_fast.data.loader import Collate
from htc_fast.training import Trainer, dry_run
from htc_fast.training.dry_run import Rehearsal
from htc_fast.training.evaluation import PAGE
from htc_fast.training.largest import largest_batch
from htc_fast.training.report import Report
from htc_fast.training.trainer import make_config, make_datasets
from tests.data.builder import image, instance, two_pictures, write
from tests.training.clock import Clock
from tests.training.test_run import small_run


@pytest.fixture
def root(tmp_path):
    content = two_pictures()
    content["images"].append(image(12, 80, 40))
    content["annotations"] += [instance(12, 3, 5 + n, 5, 20, 20) for n in range(3)]
    write(tmp_path / "data", content, split="train")
    return write(tmp_path / "data", split="val")


class Foreseen:
    """3 s for an evaluation, whatever a real forecast says, and another 9 for the end."""

    ending = 9.0

    def __init__(self, forecast):
        self.forecast, self.found = forecast, 0

    def __call__(self, model):
        self.found = len(model.predict(torch.zeros(3, 64, 64, dtype=torch.uint8), score_threshold=0.0)[0])
        assert self.forecast(model) > self.forecast.ending > PAGE
        return 3.0 + self.ending


def slowed(trainer, clock):
    """The same, with a step that takes 2 s of the clock, an evaluation 3, the picture 4 and a checkpoint 1."""

    def taking(seconds, work):
        def wrapped(*arguments):
            clock.spend(seconds)
            return work(*arguments)

        return wrapped

    loop = trainer.loop
    trainer.forecast = Foreseen(trainer.forecast)
    loop.picture = taking(4, loop.picture)
    loop.update, loop.evaluate, loop.save = taking(2, loop.update), taking(3, loop.evaluate), taking(1, loop.save)
    return trainer


def test_it_leaves_nothing_and_foresees_the_run(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Report, "draw", lambda self: None)
    monkeypatch.setattr(dry_run, "MOST", 4)
    run = small_run(root, tmp_path / "runs" / "one", epochs=5, evaluate_every=2, save_every=4, warmup=1)
    run = replace(run, set={**run.set, "score_threshold": 0.9})
    clock = Clock()
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(monotonic=clock))
    trainer = slowed(Trainer(replace(run, dry_run=True)), clock)
    kinds = []
    rehearse = trainer.rehearse
    monkeypatch.setattr(trainer, "rehearse", lambda: kinds.append(rehearse()) or kinds[0])
    trainer.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    found = kinds[0]
    # Two lying pictures in a batch, one upright: two steps an epoch; after epochs 2, 4 and at the end.
    assert (found.steps, found.evaluations, found.checkpoints) == (10, 3, 5)
    assert found.frame == (2, 64, 96) and found.device == "cpu"
    # Fresh weights find next to nothing, and masks of many objects take the time of an evaluation.
    assert trainer.forecast.found == 40 and trainer.model.config.score_threshold == 0.9
    said = capsys.readouterr().err
    assert "the largest batch (2 x 64 x 96), an evaluation of a few pictures, and a checkpoint work" in said
    assert "10 steps of" in said and "of this process (peak RSS)" in said and "nothing was left in" in said
    began = clock()
    real = slowed(Trainer(run), clock)
    real.run()
    # Checkpoints of an evaluation and of every fourth step fall together twice, which is not foreseen.
    assert found.seconds == pytest.approx(
        10 * 2 + 3 * 3 + 5 + 4 + PAGE + 3 * 3
    )  # AP by stage and page take none of this clock
    assert clock() - began == pytest.approx(10 * 2 + 3 * 3 + 3 + 4)
    assert real.loop.at.iteration == 10
    files = [*(tmp_path / "runs" / "one" / "checkpoints").iterdir(), *(tmp_path / "runs" / "one").glob("*.safetensors")]
    assert found.disk_mb == pytest.approx(sum(path.stat().st_size for path in files) / 2**20, rel=0.05)
    assert 100 < found.memory_mb < 10_000


@pytest.mark.slow
def test_what_is_left_of_a_resumed_run(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "draw", lambda self: None)
    run = small_run(root, tmp_path / "run", epochs=2, evaluate_every=1, warmup=1)
    Trainer(run).run()
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))}
    trainer = Trainer(replace(run, epochs=5, resume=True, dry_run=True))
    monkeypatch.setattr(trainer, "rehearse", lambda inner=trainer.rehearse: found.append(inner()) or found[0])
    found = []
    trainer.run()
    assert (found[0].steps, found[0].evaluations) == (6, 3)
    assert {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").rglob("*"))} == before


def test_in_words():
    found = Rehearsal("cuda", (16, 800, 1344), 9000, 0.4, 5.0, 12, 50.0, 13, 1.0, 20480, 1536, None)
    assert found.seconds == 5 + 3600 + 600 + 13
    found = replace(found, ending=7.0, free_mb=1537.0)
    assert found.seconds == 5 + 3600 + 600 + 13 + 7
    assert str(found).splitlines()[1:] == [
        "time: about 70 minutes: 9000 steps of 0.4 s, 12 evaluations of 50 s, 13 checkpoints of 1 s, and "
        "7 s at the end",
        "memory: 20.00 GB allocated on the GPU; disk: 1.50 GB",
    ]
    assert str(replace(found, free_mb=512.0)).endswith(
        "disk: 1.50 GB, but only 0.50 GB are free there: make room, or lower --keep"
    )
    limited = str(replace(found, minutes=30.0, steps=40_000))
    assert "about 4.6 hours" in limited and "; the limit of 30 minutes ends it sooner" in limited


SHAPES = {
    "as it is": ({}, (64, 96)),  # 48 x 64 becomes 64 x 85; 40 x 80, 48 x 96
    "larger at random": ({"scales": (0.5, 2.0)}, (128, 192)),
    "sizes at random": ({"train_sizes": (32, 96, 160)}, (96, 160)),
    "cut": ({"scales": (0.5, 2.0), "crop": 70}, (96, 96)),
    "jittered": ({"jitter": "large", "image_size": (128, 128)}, (128, 128)),
    "turned": ({"turn": True}, (96, 96)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_largest_batch(root, case):
    options, size = SHAPES[case]
    run = small_run(root, None, copy_paste=0.5, **options)
    config = make_config(run)
    train, _ = make_datasets(run, config)
    torch.manual_seed(0)
    images, sizes, targets, names = largest_batch(train, run.copy_paste, Collate(config.mean, config.std), 5)
    assert images.shape == (5, 3, *size) and sizes.tolist() == [list(size)] * 5 and len(names) == 5
    assert targets.masks.shape[-2:] == size and targets.semantic.shape == (5, size[0] // 8, size[1] // 8)
    assert names[0] == "000000000012.png" and targets.labels.shape == (5, 8)
