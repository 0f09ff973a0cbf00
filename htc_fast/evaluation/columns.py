"""Columns of numbers, checked."""

from itertools import chain
from typing import Any

import numpy as np

from htc_fast.errors import UserError, short


def boxes_of(given: Any, name: Any) -> np.ndarray:
    """[N, 4] float64, x, y, w, h.

    raises  UserError for what is no box
    """
    try:
        flat = given if isinstance(given, np.ndarray) else np.fromiter(chain.from_iterable(given), dtype=np.float64)
        fits = flat.size == 4 * len(given) and (flat.ndim == 2 or set(map(len, given)) <= {4})
        if fits and np.isfinite(flat).all():
            return flat.reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        pass
    for n, one in enumerate(given):
        try:
            plain = len(one) == 4 and all(abs(float(side)) < float("inf") for side in one)
        except (TypeError, ValueError, OverflowError):
            plain = False
        if not plain:
            raise UserError(f"{name(n)} must have a bbox of four numbers x, y, width, height, got {short(one)}.")
    return np.array([[float(side) for side in one] for one in given], dtype=np.float64).reshape(-1, 4)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def numbers(given: Any, what: str, name: Any, infinite: bool = False) -> np.ndarray:
    """[N] float64.

    raises  UserError for what is no number
    """
    try:
        found = np.array(given, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        found = np.array([_number(one) for one in given])
    wrong = np.isnan(found) if infinite else ~np.isfinite(found)
    if len(found) != len(given) or wrong.any():
        n = int(np.flatnonzero(wrong)[0]) if len(found) == len(given) else 0
        one = given[n].item() if isinstance(given[n], np.generic) else given[n]
        raise UserError(
            f"{name(n)} must have {'an' if what[0] in 'aeiou' else 'a'} {what} that is a number, got {short(one)}."
        )
    return found
