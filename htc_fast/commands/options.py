"""Command lines made from dataclasses: a field is an option, its type says what the option takes, its note the help.

    epochs: Annotated[float, "passes over the training pictures"] = 20.0
    image_size: Annotated[tuple[int, ...], "short side and, optionally, longest long side", "PX"] = (800, 1333)

A second note is the placeholder in the help. `POSITIONAL` of the class names the field that stands without a name,
`GROUPS` the headings of the help, each by its first field, `HIDDEN` the fields that are no options, `ALIASES` second
names of options.
"""

import argparse
import ast
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from htc_fast.errors import UserError, choose, kind_of, words_of

Run = TypeVar("Run")


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest option named when one is unknown."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            try:
                if unknown[0].startswith("-"):
                    choose(unknown[0].split("=")[0], options, "option")
            except UserError as error:
                self.error(str(error))
            self.error(f"unexpected argument {unknown[0]!r}: see --help.")
        return parsed

    def error(self, message: str) -> NoReturn:
        """One sentence, without a page of usage before it."""
        # A value of thousands of digits is not to fill the screen.
        self.exit(2, f"error: {message if len(message) <= 2000 else f'{message[:200]}… {message[-200:]}'}\n")


def given(kind: type, command: str, description: str, words: Sequence[str] | None = None) -> dict[str, Any]:
    """What a command line says, by the fields of `kind`; what it leaves out is not in it.

    command  name of the module, such as "train"
    words    None: those that this process was started with
    """
    parser = Parser(prog=f"python -m htc_fast.{command}", description=description, argument_default=argparse.SUPPRESS)
    groups: dict[str, str] = getattr(kind, "GROUPS", {})
    group: Any = parser
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        group = parser.add_argument_group(groups[field.name]) if field.name in groups else group
        if field.name not in getattr(kind, "HIDDEN", ()):
            alias = getattr(kind, "ALIASES", {}).get(field.name)
            _add(group, field, hints[field.name], field.name == getattr(kind, "POSITIONAL", None), alias)
    found = vars(parser.parse_args(words))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def parse(kind: type[Run], command: str, description: str, words: Sequence[str] | None = None) -> Run:
    """A command line as a run; see `given`."""
    return kind(**given(kind, command, description, words))


def changed(run: Run, found: dict[str, Any]) -> Run:
    """A run with what was given in place of its own; mappings are added to."""
    mappings = {name: {**getattr(run, name), **value} for name, value in found.items() if isinstance(value, dict)}
    return replace(cast(Any, run), **{**found, **mappings})


def _add(group, field: Field, hint: Any, positional: bool, alias: str | None = None) -> None:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    about: dict[str, Any] = dict(zip(("help", "metavar"), notes))
    if field.default not in (None, False, (), MISSING) and "default" not in about.get("help", ""):
        shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        about["help"] = f"{about.get('help', '')} (default: {shown})".strip()
    kind, _ = kind_of(hint)
    words = words_of(hint)
    if words:
        about["type"] = _or_words(kind, words)
    elif kind is bool:
        about["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        about |= {"choices": get_args(kind), "type": type(get_args(kind)[0])}
    elif get_origin(kind) is tuple:
        inside = get_args(kind)
        about |= {"type": inside[0], "nargs": "+" if inside[-1] is ... else len(inside)}
        if isinstance(about["nargs"], int) and "metavar" in about:
            about["metavar"] = tuple(about["metavar"].split())
    elif get_origin(kind) is dict:
        about |= {"nargs": "+", "action": _Fields}
    else:
        about["type"] = kind
    if positional:
        group.add_argument(field.name, **{**about, "nargs": "*"})
        return
    required = field.default is MISSING and field.default_factory is MISSING
    names = [f"--{field.name.replace('_', '-')}", *([alias] if alias else [])]
    group.add_argument(*names, **about, required=required)


def _or_words(kind: Any, words: tuple[str, ...]) -> Callable[[str], Any]:
    """What reads a value of this kind, or one of these words as it is; argparse calls it by the kind's name."""

    def read(text: str) -> Any:
        return text if text in words else kind(text)

    read.__name__ = f"{kind.__name__} or {' or '.join(words)}"
    return read


class _Fields(argparse.Action):
    """FIELD=VALUE pairs, values as Python or JSON writes them; what neither can read is text."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = getattr(namespace, self.dest, {})
        for pair in values:
            name, equals, text = pair.partition("=")
            if not equals:
                parser.error(f"{option_string} takes FIELD=VALUE, such as channels=128, got {pair!r}.")
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                value = {"true": True, "false": False}.get(text, text)
            found[name] = value
        setattr(namespace, self.dest, found)
