"""Means, spreads and intervals against numbers worked out elsewhere."""

import pytest

from htc_fast.ablation.steps import Value, quantile, step, value


def test_spread_is_the_standard_deviation_over_seeds():
    assert value([20.0, 22.0, 24.0]) == Value(22.0, 2.0)
    assert value([20.0]) == Value(20.0, None) and value([]) is None


def test_a_step_is_taken_seed_by_seed():
    # Differences 1, 2, 3: standard error 1 / sqrt(3), times t(2) = 4.303.
    found = step({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert found.single == (1.0, 2.0, 3.0) and found.mean == 2.0
    assert found.half == pytest.approx(2.4843, abs=1e-4) and not found.supported
    # The rows themselves vary by far more than the difference does.
    assert step({0: 11.0, 1: 21.1, 2: 30.9}, {0: 10.0, 1: 20.0, 2: 30.0}).supported


def test_seeds_that_one_row_lacks_do_not_count():
    found = step({0: 1.0, 1: 5.0, 3: 9.0}, {0: 2.0, 1: 4.0, 2: 0.0})
    assert found.single == (-1.0, 1.0) and found.half == pytest.approx(12.706)
    assert step({0: 1.0}, {1: 1.0}) is None


def test_one_seed_supports_nothing():
    found = step({0: 90.0}, {0: 10.0})
    assert found.mean == 80.0 and found.half is None and not found.supported


def test_no_difference_at_all_is_no_step():
    assert not step({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).supported


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (2, 4.303), (10, 2.228), (20, 2.086), (60, 2.000)])
def test_quantiles_are_students(freedom, expected):
    assert quantile(freedom) == pytest.approx(expected, abs=3e-3)
