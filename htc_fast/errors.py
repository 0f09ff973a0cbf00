"""The one exception for bad input from outside (files, options, data sets), and the checks that raise it."""

import difflib
import functools
import operator
import os
import sys
import types
from collections.abc import Iterable
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

LONGEST_SIDE = 65_536


class UserError(ValueError):
    """What was wrong, what was expected and what to do, in one sentence; command lines print it without a traceback."""

    def __init__(self, sentence: str):
        # A data-loading worker hands over its whole traceback; the sentence is at its end.
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())


@functools.cache
def say_once(sentence: str) -> None:
    """Print to stderr what somebody should know about their data or files, once, and only in the leading process."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr)


def choose(name: str, options: Iterable[str], what: str) -> str:
    """Return `name` if it is one of `options`.

    raises  UserError naming the nearest options otherwise
    """
    options = list(options)
    if name in options:
        return name
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.4) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(options)}."
    raise UserError(f"unknown {what} {name!r}: {hint}")


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least `least` and, where there is one, at most `most`.

    name    of the argument or the option
    raises  UserError
    """
    limits = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    try:
        number = operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(f"{name} takes {limits}, got {shown(value)}.") from None
    if number < least or (most is not None and number > most):
        raise UserError(f"{name} takes {limits}, got {number}.")
    return number


def check_score(name: str, value: Any) -> float:
    """A number from 0 to 1.

    raises  UserError
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} takes a number from 0 to 1, got {shown(value)}.")
    return float(value)


def check_sides(name: str, value: Any, meaning: str = "(short side, limit of the long side)") -> tuple[int, int]:
    """Two sides in pixels.

    raises  UserError
    """
    sides = list(value) if isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0 else []
    numbers = all(isinstance(one, Real) and not isinstance(one, bool) for one in sides)
    if len(sides) != 2 or not numbers or not all(32 <= one <= LONGEST_SIDE for one in sides):
        raise UserError(f"{name} takes two sides of 32 to {LONGEST_SIDE} pixels, {meaning}, got {shown(value)}.")
    return int(sides[0]), int(sides[1])


def shown(value: Any) -> str:
    """A value and its type, for a sentence."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else f'{text[:60]}…'} ({type(value).__name__})"


def kind_of(hint: Any) -> tuple[Any, bool]:
    """What a field's type comes down to without its notes and without None, and whether None is allowed."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    return next(one for one in get_args(hint) if one is not type(None)), type(None) in get_args(hint)


def settle(run: Any) -> None:
    """Bring the fields of a frozen dataclass to their types: text to Path, lists to tuples, whole numbers to float.

    raises  UserError naming the first field whose value is of another kind or no choice of its Literal
    """
    for name, hint in get_type_hints(type(run), include_extras=True).items():
        if name not in {field.name for field in fields(run)}:
            continue
        value, (kind, optional) = getattr(run, name), kind_of(hint)
        if value is None and optional:
            continue
        try:
            object.__setattr__(run, name, _settled(value, kind))
        except TypeError as error:
            raise UserError(f"--{name.replace('_', '-')} takes {error}, got {value!r}.") from None


def _settled(value: Any, kind: Any) -> Any:
    """raises  TypeError that says what is wanted"""
    if get_origin(kind) is Literal:
        # A command line has text for what is a number in Python.
        value = str(value) if type(value) is int and str(value) in get_args(kind) else value
        if value not in get_args(kind):
            raise TypeError(f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        inside = get_args(kind)
        fits = isinstance(value, (tuple, list)) and (inside[-1] is ... or len(value) == len(inside))
        if not fits:
            count = "" if inside[-1] is ... else f"{len(inside)} "
            raise TypeError(f"a list of {count}{inside[0].__name__}")
        return tuple(_settled(one, inside[0]) for one in value)
    kind = get_origin(kind) or kind
    wanted = {float: (float, int), Path: (Path, str)}.get(kind, (kind,))
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise TypeError({Path: "a path", str: "text", dict: "a dict"}.get(kind, f"a value of type {kind.__name__}"))
    return kind(value)
