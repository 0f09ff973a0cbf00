"""Checks at the door of the operators over boxes: one sentence for what is no tensor, no number, no count."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SYMBOLIC = (torch.SymInt, torch.SymFloat)  # what a traced program computes with


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


def check_counts(**named: Any) -> None:
    """raises  TypeError where one is no integer, ValueError where it is negative"""
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}.")


def real(name: str, value: Any) -> float:
    """One number, infinite ones included.

    raises  TypeError where it is none, ValueError for NaN
    """
    if isinstance(value, SYMBOLIC):
        return value  # type: ignore[return-value]
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    found = float(value)
    if math.isnan(found):
        raise ValueError(f"{name} must be a number, got {found}.")
    return found


def reals(name: str, values: Any, count: int) -> list[float]:
    """`count` numbers.

    raises  TypeError, ValueError
    """
    if not isinstance(values, (Sequence, Tensor)) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be {count} numbers, got {values!r}.")
    if len(values) != count:
        raise ValueError(f"{name} must be {count} numbers, got {len(values)}.")
    return [real(name, value) for value in values]


def sides(name: str, value: Any) -> tuple[int, int]:
    """A height and a width, neither negative.

    raises  TypeError, ValueError
    """
    given = tuple(value) if isinstance(value, (Sequence, Tensor)) and not isinstance(value, (str, bytes)) else ()
    if len(given) != 2:
        raise ValueError(f"{name} must be height, width, got {value!r}.")
    height, width = (
        one.__index__() if hasattr(one, "__index__") and not isinstance(one, (bool, *SYMBOLIC)) else one
        for one in given
    )
    check_counts(**{f"{name}'s height": height, f"{name}'s width": width})
    return height, width
