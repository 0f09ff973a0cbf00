"""The learning rate over a run."""

import pytest
import torch

from htc_fast import UserError
from htc_fast.training.optimizer import Schedule, make_optimizer, scaled_rate


def test_paper_recipe():
    schedule = Schedule(scaled_rate(16))
    assert schedule(10_000, 0.5) == 0.02
    assert schedule(10_000, 15.99 / 20) == 0.02
    assert schedule(10_000, 16 / 20) == pytest.approx(0.002)
    assert schedule(10_000, 19 / 20) == pytest.approx(0.0002)


def test_linear_scaling():
    assert scaled_rate(8) == 0.01 and scaled_rate(2) == 0.0025


def test_warmup_is_linear():
    schedule = Schedule(1.0, warmup=100, warmup_factor=0.1)
    assert [round(schedule(i, 0), 3) for i in (0, 50, 100)] == [0.1, 0.55, 1.0]


def test_cosine_ends_at_zero():
    schedule = Schedule(1.0, shape="cosine", warmup=0)
    assert schedule(0, 0) == 1 and schedule(5, 0.5) == pytest.approx(0.5) and schedule(9, 1.2) == pytest.approx(0)


def test_frozen_parameters_stay_out():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, "sgd", 0.1, 1e-4)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_unknown_optimizer():
    with pytest.raises(UserError, match="adamw"):
        make_optimizer(torch.nn.Linear(2, 2), "adam", 0.1, 0)
