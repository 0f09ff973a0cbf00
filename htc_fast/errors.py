"""The one exception for bad input from outside (files, options, data sets), and the checks that raise it."""

import difflib
import types
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """What was wrong, what was expected and what to do, in one sentence; command lines print it without a traceback."""

    def __init__(self, sentence: str):
        # A data-loading worker hands over its whole traceback; the sentence is at its end.
        super().__init__(sentence.rsplit("UserError: ", 1)[-1].strip())


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
