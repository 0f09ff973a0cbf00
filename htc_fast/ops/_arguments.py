"""Checks at the door of the operators over boxes: one sentence for what is no tensor, no number, no count.

Python's own numbers go through untouched, whatever they stand for in a traced program.
"""

import operator
from numbers import Complex, Real
from typing import Any

from torch import Tensor

MOST = 2**31 - 1  # of what kernels count


def check_tensors(**named: Any) -> None:
    """raises  TypeError where one is no tensor"""
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}.")


def check_integers(**named: Tensor) -> None:
    """raises  TypeError where one holds other numbers than integers (bool may stand for 0 and 1)"""
    for name, value in named.items():
        if value.is_floating_point() or value.is_complex():
            raise TypeError(f"{name} must be integers, got {value.dtype}.")


def items(name: str, values: Any) -> list:
    """What a list, tuple, array or tensor holds.

    raises  TypeError for anything else
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} must be a list or a tuple, got {type(values).__name__}.")
    return list(values)


def count(name: str, value: Any) -> int:
    """An integer that is not negative.

    raises  TypeError, ValueError
    """
    if not isinstance(value, int) or isinstance(value, bool):
        try:
            value = operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be an integer, got {_short(value)}.") from None
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}.")
    if value > MOST:
        raise ValueError(f"{name} must be below 2^31, got {_short(value)}.")
    return value


def real(name: str, value: Any) -> float:
    """A number, infinite ones included.

    raises  TypeError where it is none, ValueError for NaN
    """
    if not isinstance(value, (int, float)):
        imaginary = isinstance(value, Complex) and not isinstance(value, Real)
        try:
            value = float(None if imaginary or isinstance(value, (str, bytes)) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a number, got {_short(value)}.") from None
    if value != value:
        raise ValueError(f"{name} must be a number, got {value}.")
    return value


def reals(name: str, values: Any, wanted: int) -> list[float]:
    """`wanted` numbers.

    raises  TypeError, ValueError
    """
    given = items(name, values)
    if len(given) != wanted:
        raise ValueError(f"{name} must be {wanted} numbers, got {len(given)}.")
    return [real(name, value) for value in given]


def sides(name: str, value: Any) -> tuple[int, int]:
    """A height and a width, neither negative; 20.0 is taken for 20.

    raises  TypeError, ValueError
    """
    given = items(name, value) if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) else []
    if len(given) != 2:
        raise ValueError(f"{name} must be height, width, got {_short(value)}.")
    height, width = (int(one) if isinstance(one, float) and one.is_integer() else one for one in given)
    return count(f"{name}'s height", height), count(f"{name}'s width", width)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"
