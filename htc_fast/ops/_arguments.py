"""Checks at the door of the operators: one sentence for what is no tensor, no number, no count.

Python's own numbers go through untouched, whatever they stand for in a traced program.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Complex, Real
from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import MOST, short

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # of what maps are made


def check_tensors(**named: Any) -> None:
    """raises  TypeError where one is no tensor, or none whose numbers simply lie in memory"""
    for name, value in named.items():
        check_tensor(name, value)


def check_tensor(name: str, value: Any) -> None:
    """raises  TypeError as `check_tensors` does"""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}.")
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
        raise TypeError(f"{name} must be a dense tensor, got one that is {kind}.")


def check_device(name: str, value: Tensor, others: str, like: Tensor) -> None:
    """raises  ValueError where a tensor is not where `like` is"""
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like {others}, got {value.device}: move them together.")


def check_integers(**named: Tensor) -> None:
    """raises  TypeError where one holds other numbers than integers (bool may stand for 0 and 1)"""
    for name, value in named.items():
        if value.is_floating_point() or value.is_complex():
            raise TypeError(f"{name} must be integers, got {value.dtype}.")


def check_sizes(image_sizes: Tensor) -> None:
    """raises  TypeError where the sizes of images are no real numbers"""
    if image_sizes.is_complex() or image_sizes.dtype == torch.bool:
        raise TypeError(f"image_sizes must be numbers of pixels, got {image_sizes.dtype}.")
    if image_sizes.is_floating_point():
        check_floats("image_sizes", image_sizes)


def check_floats(name: str, value: Tensor) -> None:
    """raises  TypeError where a tensor holds other numbers than those of `FLOATS`"""
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be floating point (float64, float32, float16 or bfloat16), got {value.dtype}.")


def items(name: str, values: Any) -> list:
    """What a list, tuple, array, tensor or anything else in order holds.

    raises  TypeError for anything else
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    unordered = isinstance(values, (str, bytes, dict, set, frozenset))
    if unordered or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} must be a list or a tuple, got {type(values).__name__}.")
    return list(values)


def count(name: str, value: Any) -> int:
    """An integer that is not negative.

    raises  TypeError, ValueError
    """
    value = _index(name, value)
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {short(value)}.")
    if value > MOST:
        raise ValueError(f"{name} must be below 2^31, got {short(value)}.")
    return value


def integer(name: str, value: Any, least: int, most: int) -> int:
    """An integer from least to most.

    raises  TypeError, ValueError
    """
    value = _index(name, value)
    if not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}, got {short(value)}.")
    return value


def _index(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an integer, got {short(value)}.") from None


def flag(name: str, value: Any) -> bool:
    """True or False, for which 1 and 0, and other libraries' booleans, may stand.

    raises  TypeError
    """
    if isinstance(value, bool):
        return value
    try:
        number = operator.index(value if isinstance(value, int) else value.item())
    except (TypeError, ValueError, RuntimeError, AttributeError):
        number = -1
    if number not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {short(value)}.")
    return bool(number)


def choice(name: str, value: Any, options: Sequence[str]) -> str:
    """One of some words.

    raises  ValueError
    """
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be {' or '.join(map(repr, options))}, got {short(value)}.")
    return value


def real(name: str, value: Any) -> float:
    """A number, infinite ones included.

    raises  TypeError where it is none, ValueError for NaN
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value}.")
    if not isinstance(value, (int, float)):
        imaginary = isinstance(value, Complex) and not isinstance(value, Real)
        try:
            value = float(None if imaginary or isinstance(value, (str, bytes)) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a number, got {short(value)}.") from None
    if value != value:
        raise ValueError(f"{name} must be a number, got {value}.")
    if isinstance(value, int) and not -MOST <= value <= MOST:  # more than a tensor's integers hold
        return float(max(-(2**1000), min(value, 2**1000)))
    return value


def positive(name: str, value: Any) -> float:
    """A number above zero that is not infinite.

    raises  TypeError, ValueError
    """
    if isinstance(value, float) and 0 < value < math.inf:
        return value
    value = real(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}.")
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
        raise ValueError(f"{name} must be height, width, got {short(value)}.")
    height, width = (int(one) if isinstance(one, float) and one.is_integer() else one for one in given)
    return count(f"{name}'s height", height), count(f"{name}'s width", width)
