"""The one exception for bad input from outside: files, options, data sets."""

import difflib
from collections.abc import Iterable


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
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(options)}."
    raise UserError(f"unknown {what} {name!r}: {hint}")
