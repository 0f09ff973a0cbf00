"""Numbers, flags and ids as files write them: text and whole floats are taken where they can mean one thing only."""

import math
import re
from collections.abc import Sequence

from htc_fast.errors import UserError, brief, short

# Beyond it, doubles no longer tell fifths of a pixel apart, and nothing in a picture is as large.
LARGEST = 1e15

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# As a computer writes a whole number: "010" and "+1" are names.
_ID = re.compile(r"(0|-?[1-9][0-9]{0,99})(\.0+)?")
_FLAGS = {"": False, "false": False, "no": False, "true": True, "yes": True}
_KINDS = {bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}


def number(value: object) -> float | None:
    """A finite number of a size that pixels may have, also from text; None for anything else."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) <= LARGEST else None


def whole(value: object) -> int | None:
    """A whole number, also from text or a float without a fraction; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def flag(value: object) -> bool | None:
    """Whether a flag is set: 0 or 1, true or false, also as text; null and NaN are not; None for the rest."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    if isinstance(value, float) and math.isnan(value):
        return False  # as a table writes what is not there
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    found = number(value)
    return bool(found) if found in (0, 1) else None


def identity(value: object) -> int | str | None:
    """What an id is looked up by: 10, 10.0 and "10" are one; None for what is no id, such as true, NaN or a list."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        digits = _ID.fullmatch(value)
        return int(digits[1]) if digits else value
    return value if isinstance(value, int) else None


def as_written(value: int | float | str) -> int | str:
    """An id as results are to give it back: text stays text; 10.0 is the same number in JSON as 10."""
    return int(value) if isinstance(value, float) else value


def different(ids: Sequence[object], sentence: str) -> list[int | str]:
    """What each id is looked up by.

    raises  UserError for what is no id, and for two that are one
    """
    found: dict[int | str, object] = {}
    for one in ids:
        key = identity(one)
        if key is None:
            raise UserError(f"{sentence}, numbers or text, but one has {as_json(one)}.")
        if key in found:
            raise UserError(
                f"{sentence}, but {as_json(found[key])} and {as_json(one)} are one: id {brief(str(key))} appears twice."
            )
        found[key] = one
    return list(found)


def as_json(value: object) -> str:
    """A value and its type in JSON's words, for a sentence."""
    return "nothing" if value is None else f"{short(value)} ({_KINDS.get(type(value), type(value).__name__)})"


def offending(value: object, depth: int = 3) -> object:
    """The first thing in a list of lists that is no number; the list itself where there is none."""
    for one in value if isinstance(value, list) else ():
        inner = offending(one, depth - 1) if isinstance(one, list) and depth else one
        if not isinstance(inner, list) and number(inner) is None:
            return inner
    return value
