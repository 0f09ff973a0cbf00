"""Writing results."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from htc_fast.errors import UserError


def check_writable(folder: Path) -> None:
    """Make a folder and see that files can be written there: before long work, not after it.

    raises  UserError
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_kept(source: Path | None, folder: Path, names: Iterable[str]) -> None:
    """raises  UserError where one of the files to be written would replace what is read"""
    for name in names:
        if source is not None and os.path.realpath(folder / name) == os.path.realpath(source):
            raise UserError(f"{folder / name} would replace the annotation file itself: choose another place (--out).")


def write_json(path: Path, content: object) -> None:
    """Write JSON so that the name never holds half of it.

    raises  UserError if it cannot be written
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end of the block, and nothing after an error.

    raises  UserError if it cannot be written
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


class JsonList:
    """A JSON list written as its items come, so that memory does not grow with it; the name appears at the end.

    Leaving the block by Ctrl-C keeps what came so far; by an error, leaves nothing.

    raises  UserError if it cannot be written
    """

    def __init__(self, path: Path):
        self.path, self.partial = path, path.with_name(path.name + ".partial")

    def __enter__(self) -> "JsonList":
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.partial, "w", encoding="utf-8")
        self.between = "["
        return self

    def add(self, items: Iterable[object]) -> None:
        """Append items."""
        with writing(self.path):
            for item in items:
                self.file.write(self.between + json.dumps(item))
                self.between = ",\n"

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.file.close()
            self.partial.unlink(missing_ok=True)
            return
        with writing(self.path):
            self.file.write("[]" if self.between == "[" else "]")
            self.file.close()
            os.replace(self.partial, self.path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system refuses within is one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another place (--out).") from None
