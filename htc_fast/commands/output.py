"""Writing results."""

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from htc_fast.errors import UserError

Self = TypeVar("Self", bound="Growing")


def check_writable(folder: Path, option: str = "--out") -> None:
    """Make a folder and see that files can be written there: before long work, not after it.

    raises  UserError
    """
    with writing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_kept(source: Path | None, folder: Path, names: Iterable[str], option: str = "--out") -> None:
    """raises  UserError where one of the files to be written would replace what is read"""
    for name in names:
        if source is not None and os.path.realpath(folder / name) == os.path.realpath(source):
            raise UserError(
                f"{folder / name} would replace the annotation file itself: choose another place ({option})."
            )


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


class Growing:
    """A text file written as its parts come, so that memory does not grow with it; the name appears at the end.

    Leaving the block by Ctrl-C keeps what came so far; by an error, leaves nothing.

    raises  UserError if it cannot be written
    """

    def __init__(self, path: Path):
        self.path, self.partial = path, path.with_name(path.name + ".partial")

    def __enter__(self: Self) -> Self:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A file's name may hold bytes that are no UTF-8; a table's own line ends stay.
            self.file = open(self.partial, "w", encoding="utf-8", errors="surrogateescape", newline="")
            self.begin()
        return self

    def begin(self) -> None:
        """Write what comes first."""

    def end(self) -> None:
        """Write what comes last."""

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.file.close()
            self.partial.unlink(missing_ok=True)
            return
        with writing(self.path):
            self.end()
            self.file.close()
            os.replace(self.partial, self.path)


class JsonList(Growing):
    """A JSON list."""

    between = "["

    def add(self, items: Iterable[object]) -> None:
        """Append items."""
        with writing(self.path):
            for item in items:
                self.file.write(self.between + json.dumps(item))
                self.between = ",\n"

    def end(self) -> None:
        self.file.write("[]" if self.between == "[" else "]")


class Table(Growing):
    """A CSV table, with its columns' names in the first line; what would break a line or a cell is quoted."""

    def __init__(self, path: Path, columns: Sequence[str]):
        super().__init__(path)
        self.columns = columns

    def begin(self) -> None:
        self.rows = csv.DictWriter(self.file, self.columns, lineterminator="\n")
        self.rows.writeheader()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows, by column; None is an empty cell."""
        with writing(self.path):
            self.rows.writerows(rows)


@contextlib.contextmanager
def writing(path: Path, option: str = "--out") -> Iterator[None]:
    """Whatever the system refuses within is one sentence, which names the option that chose the place."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): make room or choose another place ({option})."
        ) from None
