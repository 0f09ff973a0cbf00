"""The one exception for bad input from outside (files, options, data sets), and the sentences that it says.

Checks of an argument or option by itself (`check_...`, `choose`, `settle`), and how sentences show values (`short`,
`shown`) and lists (`few`): on one line, however large they are.
"""

import contextlib
import difflib
import functools
import math
import operator
import os
import reprlib
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

LONGEST_SIDE = 65_536  # of a picture as a network sees it
MOST = 2**31 - 1  # of what is counted in 32 bits
MOST_DETECTIONS = 10_000  # in a picture: each takes the mask heads 200 KB
MOST_PICTURES = 65_536  # in a batch

_writer = reprlib.Repr()
_writer.maxlevel = 3
_writer.maxtuple = _writer.maxlist = _writer.maxdict = _writer.maxset = _writer.maxfrozenset = 30
_writer.maxstring = _writer.maxlong = _writer.maxother = 200


class UserError(ValueError):
    """What was wrong, what was expected and what to do, in one sentence; command lines print it without a traceback."""

    def __init__(self, sentence: str):
        # A data-loading worker hands over its whole traceback; the sentence is at its end.
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())


class ShapeError(ValueError, AssertionError, RuntimeError):
    """Boxes or scores that are no such tensors: torchvision has it an AssertionError or a RuntimeError, and programs
    may look out for those."""


_noted: list[list[str]] = []


@contextlib.contextmanager
def noted() -> Iterator[list[str]]:
    """Within, what `say_once` says is kept in the list too; what was said before is said again."""
    say_once.cache_clear()
    sentences: list[str] = []
    _noted.append(sentences)
    try:
        yield sentences
    finally:
        # Not by remove, which takes an equal one.
        _noted[:] = [one for one in _noted if one is not sentences]


@functools.cache
def say_once(sentence: str) -> None:
    """Print to stderr what somebody should know about their data or files, once, and only in the leading process."""
    for sentences in _noted:
        sentences.append(sentence)
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
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {few(options, most=40)}."
    raise UserError(f"unknown {what} {short(name)}: {hint}")


def check_count(name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """A whole number from `least` to `most`.

    name    of the argument or the option
    raises  UserError
    """
    try:
        number = operator.index(None if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None or not least <= number <= most:
        open_ended = most == MOST and (number is None or number < least)
        limits = f"of at least {least}" if open_ended else f"from {least} to {most}"
        raise UserError(f"{name} takes a whole number {limits}, got {shown(value)}.")
    return number


def check_number(name: str, value: float, zero: bool = False) -> float:
    """A finite number above 0, or also 0 where `zero`.

    raises  UserError
    """
    if not _real(value) or not (0 < value < math.inf or (zero and value == 0)):
        raise UserError(f"{name} takes a finite number {'of at least' if zero else 'above'} 0, got {shown(value)}.")
    return value


def check_score(name: str, value: Any) -> float:
    """A number from 0 to 1.

    raises  UserError
    """
    if not _real(value) or not 0 <= value <= 1:
        raise UserError(f"{name} takes a number from 0 to 1, got {shown(value)}.")
    return float(value)


def check_sides(
    name: str, value: Any, meaning: str = "short side, limit of the long side", ordered: bool = True
) -> tuple[int, int]:
    """Two sides of pictures in pixels, whole numbers; 800.0 is one.

    ordered  the first must not be longer than the second
    raises   UserError
    """
    sides = list(value) if isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1 else []
    fit = all(_real(one) and 32 <= one <= LONGEST_SIDE and one == int(one) for one in sides)
    if len(sides) != 2 or not fit or (ordered and sides[0] > sides[1]):
        order = ", the smaller first" if ordered else ""
        raise UserError(
            f"{name} takes two sides of 32 to {LONGEST_SIDE} pixels ({meaning}){order}, got {shown(value)}."
        )
    return int(sides[0]), int(sides[1])


def check_train_sizes(name: str, value: Any) -> tuple[int, int, int]:
    """Three sides in pixels: the short side is drawn from the first to the second, the long one is at most the third.

    raises  UserError
    """
    sides = tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) != 3:
        raise UserError(f"{name} takes three sides in pixels (LOW, HIGH, LONG), got {shown(value)}.")
    low, high = check_sides(name, sides[:2], "LOW, HIGH")
    return low, high, check_sides(name, sides[1:], "HIGH, LONG")[1]


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def short(value: Any) -> str:
    """As Python writes it, on one line of at most 60 letters."""
    try:
        text = " ".join(_writer.repr(value).split())
    except (ValueError, RecursionError):  # thousands of digits
        return "a value too long to show"
    return text if len(text) <= 60 else f"{text[:60]}…"


def shown(value: Any) -> str:
    """A value and its type, for a sentence."""
    return f"{short(value)} ({type(value).__name__})"


def brief(name: str) -> str:
    """A name without quotes, as long as it is on one line and not very long."""
    return name if name.isprintable() and len(name) <= 200 else short(name)


def few(names: Iterable[object], most: int = 5) -> str:
    """Some of a list of names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(brief(str(one)) for one in names[:most]) + more


def kind_of(hint: Any) -> tuple[Any, bool]:
    """What a field's type comes down to without its notes and without None, and whether None is allowed."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    return next(one for one in get_args(hint) if one is not type(None)), type(None) in get_args(hint)


def words_of(hint: Any) -> tuple[str, ...]:
    """Words that a field takes beside its kind: auto of `int | Literal["auto"]`."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(hint) not in (Union, types.UnionType) or get_origin(kind_of(hint)[0]) is Literal:
        return ()
    return tuple(word for one in get_args(hint) if get_origin(one) is Literal for word in get_args(one))


def settle(run: Any) -> None:
    """Bring the fields of a frozen dataclass to their types: text to Path, lists to tuples, whole numbers to float.

    raises  UserError naming the first field whose value is of another kind or no choice of its Literal
    """
    for name, hint in get_type_hints(type(run), include_extras=True).items():
        if name not in {field.name for field in fields(run)}:
            continue
        value, (kind, optional) = getattr(run, name), kind_of(hint)
        if (value is None and optional) or (isinstance(value, str) and value in words_of(hint)):
            continue
        try:
            object.__setattr__(run, name, _settled(value, kind))
        except (TypeError, OverflowError) as error:
            wanted = error if isinstance(error, TypeError) else "a smaller number"
            wanted = " or ".join([str(wanted), *words_of(hint)])
            raise UserError(f"{option(name)} takes {wanted}, got {shown(value)}.") from None


def option(name: str) -> str:
    """A field's name as command lines have it."""
    return f"--{name.replace('_', '-')}"


def _settled(value: Any, kind: Any) -> Any:
    """raises  TypeError that says what is wanted"""
    if get_origin(kind) is Literal:
        # A command line has text for what is a number in Python.
        value = next((one for one in get_args(kind) if type(value) is int and one == short(value)), value)
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
