"""What several seeds say of one row, and of the step from another: means, spreads, and what these support.

A step is taken seed by seed, as two models of one seed see the same pictures in the same order and share initial
values. It is supported where 0 lies outside of the 95 % interval of its mean, by Student's t of as many seeds.
"""

import math
import statistics
from dataclasses import dataclass

RULE = (
    "A step is the mean over the seeds of the difference between two models of the same seed, ± half its 95 % interval "
    "(Student's t times the standard error). Where that interval holds 0, the runs do not support the step. One in "
    "twenty steps that are nothing would look supported; and other pictures would vary more than other seeds do."
)
# 97.5 % points of Student's t by degrees of freedom, from 1.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Value:
    """A mean with its standard deviation over seeds; None where there is one seed alone."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Step:
    """A difference between two rows.

    mean       over the seeds that both rows have
    half       half the 95 % interval of that mean; None where there is one seed alone
    single     the difference of every seed
    """

    mean: float
    half: float | None
    single: tuple[float, ...]

    @property
    def supported(self) -> bool:
        """Whether the interval leaves 0 out; a step of two values that never vary is one."""
        return self.half is not None and abs(self.mean) > self.half


def value(numbers: list[float]) -> Value | None:
    """Mean and spread of one row's numbers, one per seed; None of none."""
    if not numbers:
        return None
    return Value(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


def step(ours: dict[int, float], base: dict[int, float]) -> Step | None:
    """The step from one row's numbers to another's, each seed -> number; None where they share no seed."""
    single = tuple(ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys()))
    if not single:
        return None
    half = None
    if len(single) > 1:
        half = quantile(len(single) - 1) * statistics.stdev(single) / math.sqrt(len(single))
    return Step(statistics.fmean(single), half, single)


def quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t; beyond ten degrees of freedom to two digits."""
    return T[freedom - 1] if freedom <= len(T) else 1.96 + 2.37 / freedom + 2.8 / freedom**2
