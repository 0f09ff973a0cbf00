"""Epochs in which some samples come more often: as often as asked for, and all of one length."""

import itertools
from collections import Counter

import pytest

from htc_fast.training.batches import Batches
from htc_fast.training.distributed import World
from tests.training.test_batches import Noise, first

REPEATS = [1, 1.25, 1, 2.5, 1, 1, 3, 1.1, 1, 1.75]


def counts(batches, epoch):
    return Counter(itertools.chain(*batches.plan(epoch)))


def test_as_often_as_asked_for():
    batches = Batches(Noise(10), list, 1, repeats=REPEATS)
    assert len(batches) == 15  # 14.6
    total = Counter()
    for epoch in range(400):
        # Without the one that fills the epoch up.
        keys = set(itertools.chain(*batches.keys(epoch)))
        found = Counter(key % 10 for key in keys)
        assert len(keys) in (14, 15)
        assert all(int(wanted) <= found[i] <= -(-wanted // 1) for i, wanted in enumerate(REPEATS))
        assert keys == {i + 10 * n for i in range(10) for n in range(found[i])}
        total += found
    assert [total[i] / 400 for i in range(10)] == pytest.approx(REPEATS, abs=0.08)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_epoch_and_process_has_as_many_batches(size):
    repeats = [1 + (i * 0.377) % 1.9 for i in range(23)]
    groups = [i % 3 // 2 for i in range(23)]
    each = [Batches(Noise(23), list, 2, World(rank, size), groups, 3, repeats=repeats) for rank in range(size)]
    lengths = {len(one) for one in each} | {len(one.plan(epoch)) for one in each for epoch in range(60)}
    assert len(lengths) == 1
    for epoch in range(5):
        plans = [one.plan(epoch) for one in each]
        assert plans == [one.plan(epoch) for one in each], "a plan is a function of the epoch"
        assert all(len({groups[i] for i in batch}) == 1 and len(batch) == 2 for plan in plans for batch in plan)
        assert {i for plan in plans for batch in plan for i in batch} == set(range(23))


def test_plans_differ_by_epoch_and_seed():
    plans = [Batches(Noise(10), list, 2, seed=seed, repeats=REPEATS).plan(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(one != other for one, other in itertools.combinations(plans, 2))


def test_once_each_is_an_epoch_as_ever():
    assert counts(Batches(Noise(10), list, 5, repeats=[1.0] * 10), 3) == Counter(range(10))


def test_a_sample_that_comes_again_is_drawn_anew():
    drawn = list(itertools.chain(*first(Batches(Noise(4), list, 2, repeats=[3, 1, 1, 1]), 3)))
    assert sorted(index for index, _ in drawn) == [0, 0, 0, 1, 2, 3]
    assert len({noise for _, noise in drawn}) == 6
    # The first time it is what it is without repeats.
    assert set(itertools.chain(*first(Batches(Noise(4), list, 2), 2))) < set(drawn)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_position_is_found_again(workers):
    batches = Batches(Noise(10), list, 2, seed=5, workers=workers, repeats=REPEATS)
    whole = first(Batches(Noise(10), list, 2, seed=5, repeats=REPEATS), 18)
    assert len(batches) == 8 and first(batches, 7, epoch=1, skip=3) == whole[11:18]
