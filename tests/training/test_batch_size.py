"""--batch-size auto: the largest number that fits, agreed on, kept by a run that goes on."""

import math

import pytest
import torch

from htc_fast import UserError
from htc_fast.commands.options import given
from htc_fast.training import Trainer, TrainingRun, batch_size
from htc_fast.training.distributed import World
from tests.data.builder import image, instance, two_pictures, write
from tests.training.test_run import small_run


@pytest.fixture
def root(tmp_path):
    content = two_pictures()
    content["images"] += [image(number) for number in range(20, 38)]
    content["annotations"] += [instance(number, 3, 8, 4, 20, 16) for number in range(20, 38)]
    write(tmp_path, content, split="train")
    return write(tmp_path, split="val")


class Memory:
    """A GPU of so many bytes, of which each picture of a step takes a GB; what is more is out of memory at once."""

    def __init__(self, gigabytes, tried):
        self.free, self.tried = gigabytes * 2**30, tried

    def forget(self):
        pass

    @property
    def peak(self):
        return self.tried[-1] * 2**30


@pytest.fixture
def gpu(monkeypatch):
    def make(gigabytes):
        tried, learn = [], batch_size.learn

        def limited(step, precision, images, *rest):
            tried.append(len(images))
            if len(images) > gigabytes:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            return learn(step, precision, images, *rest)

        monkeypatch.setattr(batch_size, "learn", limited)
        monkeypatch.setattr(batch_size, "memory_of", lambda device: Memory(gigabytes, tried))
        return tried

    return make


@pytest.mark.parametrize(
    ("limit", "most", "found"),
    [
        (0, 99, 0),
        (1, 99, 1),
        (2, 99, 2),
        (3, 99, 3),
        (5, 99, 4),
        (7, 99, 6),
        (8, 99, 8),
        (15, 99, 12),
        (math.inf, 20, 16),
    ],
)
def test_search(limit, most, found):
    asked = []
    assert batch_size.search(lambda count: asked.append(count) or count <= limit, most) == found
    assert len(asked) <= 8 and max(asked) <= most and len(set(asked)) == len(asked)


def test_as_many_as_fit_with_a_margin(root, tmp_path, gpu, capsys):
    tried = gpu(7)
    run = small_run(root, tmp_path / "run", batch_size="auto", iterations=1, lr=None, warmup=0, log=["none"])
    trainer = Trainer(run)
    # 7 GB hold 6 pictures, but not with a tenth of them to spare: 8 are too many, 6 fit into 6.3.
    assert tried == [1, 2, 4, 8, 6] and trainer.loop.batches.batch_size == 6
    assert "--batch-size auto: 6 pictures, which take 6.0 GB of at most 6.3 of 7.0 GB." in capsys.readouterr().err
    assert trainer.loop.recipe.schedule.rate == pytest.approx(0.02 * 6 / 16)
    assert trainer.settings.batch_size == 6 and trainer.loop.about["batch_size"] == 6
    plain = Trainer(small_run(root, tmp_path / "other"))
    untouched = plain.model.state_dict()
    assert all(torch.equal(one, untouched[name]) for name, one in trainer.model.state_dict().items())
    assert all(one.grad is None for one in trainer.model.parameters())


def test_room_is_left_for_graphs_and_averages(root, tmp_path, gpu, monkeypatch):
    monkeypatch.setattr(batch_size, "GRAPHED", 0.5)
    run = small_run(root, tmp_path, batch_size="auto", ema=0.9)
    trainer = Trainer(small_run(root, tmp_path / "run"))
    tried = gpu(4)
    monkeypatch.setattr(batch_size, "MARGIN", 1.0)
    assert batch_size.settled(run, tmp_path, trainer.model, trainer.train, World()).batch_size == 3 and tried[-1] == 3


def test_all_processes_come_to_the_smallest(root, tmp_path, gpu):
    class Second(World):
        """Beside one whose memory ends at 3 pictures."""

        def any(self, flag):
            return flag or tried[-1] > 3

    trainer = Trainer(small_run(root, tmp_path / "run"))
    tried = gpu(7)
    run = small_run(root, tmp_path, batch_size="auto")
    found = batch_size.settled(run, tmp_path, trainer.model, trainer.train, Second())
    assert found.batch_size == 3 and tried == [1, 2, 4, 3]


def test_no_picture_fits(root, tmp_path, gpu):
    gpu(0)
    with pytest.raises(UserError, match=r"not even one of the largest pictures trains in 0\.0 of 0\.0 GB: lower --im"):
        Trainer(small_run(root, tmp_path / "run", batch_size="auto"))


def test_on_a_cpu_it_is_the_default(root, tmp_path, capsys):
    run = small_run(root, tmp_path / "run", batch_size="auto", iterations=1, warmup=0)
    trainer = Trainer(run)
    assert trainer.loop.batches.batch_size == 2
    assert "--batch-size auto is for GPUs: on a CPU it is 2, as by default." in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_number(root, tmp_path, gpu, capsys):
    Trainer(small_run(root, tmp_path / "run", batch_size=3, iterations=1, warmup=0)).run()
    gpu(7)
    run = small_run(root, tmp_path / "run", batch_size="auto", iterations=2, warmup=0, resume=True)
    trainer = Trainer(run)
    trainer.run()
    said = capsys.readouterr().err
    assert trainer.loop.batches.batch_size == 3 and trainer.loop.at.iteration == 2
    assert "--batch-size auto: 3 pictures, as this run had before." in said and "batch_size was" not in said


def test_words_and_numbers():
    assert given(TrainingRun, "train", "", ["--batch-size", "auto"]) == {"batch_size": "auto"}
    assert given(TrainingRun, "train", "", ["--batch-size", "4"]) == {"batch_size": 4}
    assert TrainingRun(batch_size="auto").plan().schedule.rate == TrainingRun(batch_size=2).plan().schedule.rate
    with pytest.raises(UserError, match="--batch-size takes a value of type int or auto, got 'all'"):
        TrainingRun(batch_size="all")
