"""What the command lines share: errors as one sentence, and near misses suggested."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable

import torch

from htc_fast.errors import UserError


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


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest option named when one is unknown."""

    def parse_args(self, args=None, namespace=None):
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

    def error(self, message: str):
        """One sentence, without a page of usage before it."""
        self.exit(2, f"error: {message}\n")


def run(main: Callable[[], int | None]) -> None:
    """Run a command line: bad input and a lack of memory or disk are one line on stderr and status 2, Ctrl-C is 130."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError as error:
        first = str(error).strip().splitlines()[0]
        print(f"error: {first} Lower --batch-size or the image size, or use --amp.", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; Python must not write to it again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot read or write{place} ({error.strerror or error}): check room and rights.", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
