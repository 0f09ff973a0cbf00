"""Sampling: fixed size, positives first, every candidate as likely as the next."""

import torch

from htc_fast.criterion.matching import IGNORED, NEGATIVE
from htc_fast.criterion.sampling import random_sampler, sample


def make(positives, negatives, ignored=0):
    return torch.tensor([[*range(positives), *[NEGATIVE] * negatives, *[IGNORED] * ignored]])


def draw(assigned, count=8, fraction=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sample(assigned, random_sampler(assigned, generator), count, fraction)


def test_enough_of_both():
    drawn = draw(make(10, 20, 5))
    assert drawn.positive[0].tolist() == [True, True] + [False] * 6
    assert drawn.valid.all()
    assert len(set(drawn.index[0].tolist())) == 8
    assert (drawn.gt[0, :2] == drawn.index[0, :2]).all()
    assert ((drawn.index[0, 2:] >= 10) & (drawn.index[0, 2:] < 30)).all()


def test_negatives_fill_missing_positives():
    drawn = draw(make(1, 20))
    assert drawn.positive.sum() == 1 and drawn.valid.sum() == 8


def test_padding_when_too_few():
    drawn = draw(make(3, 2, 4))
    assert drawn.positive[0].tolist() == [True, True] + [False] * 6
    assert drawn.valid[0].tolist() == [True] * 4 + [False] * 4
    assert drawn.index[0, 4:].tolist() == [0] * 4 and drawn.gt[0, 2:].tolist() == [0] * 6


def test_fewer_candidates_than_samples():
    drawn = draw(make(1, 1), count=512)
    assert drawn.index.shape == (1, 512) and drawn.valid.sum() == 2


def test_nothing_to_draw():
    drawn = draw(make(0, 0, 6))
    assert not drawn.valid.any() and not drawn.positive.any()


def test_images_are_drawn_apart():
    assigned = torch.cat([make(4, 6), make(0, 10), make(8, 2)])
    drawn = draw(assigned, count=8, fraction=0.5)
    assert drawn.positive.sum(dim=1).tolist() == [4, 0, 4]
    assert drawn.valid.sum(dim=1).tolist() == [8, 8, 6]


def test_uniform():
    assigned = make(8, 0)
    seen = torch.zeros(8)
    for seed in range(800):
        seen[draw(assigned, seed=seed).index[0, :2]] += 1
    # 200 expected each, standard deviation 12.
    assert (seen - 200).abs().max() < 60


def test_seed_decides():
    assigned = make(40, 100)
    assert (draw(assigned, seed=3).index == draw(assigned, seed=3).index).all()
    assert (draw(assigned, seed=3).index != draw(assigned, seed=4).index).any()


def test_recorded_draw_is_replayed():
    assigned, recorded = make(10, 20), [7, 2, 29, 11, 15, 18, 20, 25]
    priority = torch.zeros(1, 30)
    priority[0, recorded] = torch.arange(8, 0, -1.0)
    assert sample(assigned, priority, 8, 0.25).index[0].tolist() == recorded


def test_take():
    drawn = draw(make(2, 4), count=4)
    values = torch.rand(1, 6, 3)
    assert (drawn.take(values) == values[0, drawn.index[0]]).all()
    assert (drawn.take(values[..., 0]) == values[0, drawn.index[0], 0]).all()
