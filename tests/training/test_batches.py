"""Batches: the same from any position, apart for each process, never mixed over groups."""

import itertools

import pytest
import torch

from htc_fast.training.batches import Batches
from htc_fast.training.distributed import World


class Noise:
    """Sample = (index, a random number, as an augmentation would draw)."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, torch.rand(()).item()


def first(batches, count, epoch=0, skip=0):
    return list(itertools.islice(batches.stream(epoch, skip), count))


@pytest.mark.parametrize("workers", [0, 2])
def test_any_position_is_found_again(workers):
    batches = Batches(Noise(10), list, 3, seed=5, workers=workers)
    whole = first(Batches(Noise(10), list, 3, seed=5), 12)
    assert len(batches) == 4
    assert first(batches, 6, epoch=1, skip=2) == whole[6:12]


def test_epochs_and_seeds_differ():
    batches = Batches(Noise(10), list, 10, seed=1)
    one, two = first(batches, 2)
    assert sorted(index for index, _ in one) == sorted(index for index, _ in two) == list(range(10))
    assert dict(one) != dict(two)
    assert dict(first(Batches(Noise(10), list, 10, seed=2), 1)[0]) != dict(one)


def test_drawing_leaves_the_global_generator_alone():
    batches = Batches(Noise(4), list, 2).stream()
    state = torch.get_rng_state()
    next(batches)
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_an_epoch():
    plans = [Batches(Noise(12), list, 2, World(rank, 3)).plan(4) for rank in range(3)]
    assert [len(plan) for plan in plans] == [2, 2, 2]
    assert sorted(itertools.chain(*itertools.chain(*plans))) == list(range(12))


def test_uneven_processes_take_as_many_batches():
    each = [Batches(Noise(7), list, 2, World(rank, 3)) for rank in range(3)]
    assert [len(batches) for batches in each] == [len(batches.plan(1)) for batches in each] == [2, 2, 2]


def test_fewer_batches_than_processes():
    plans = [Batches(Noise(3), list, 2, World(rank, 5)).plan(0) for rank in range(5)]
    assert [len(plan) for plan in plans] == [1] * 5


def test_groups_do_not_mix():
    groups = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0]
    plan = Batches(Noise(11), list, 4, groups=groups).plan(0)
    assert all(len({groups[index] for index in batch}) == 1 and len(batch) == 4 for batch in plan)
    assert {index for batch in plan for index in batch} == set(range(11))


def test_batch_larger_than_the_data():
    assert sorted(Batches(Noise(2), list, 5).plan(0)[0]) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
