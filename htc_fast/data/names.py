"""File names as converters write them, and the files that they mean.

A name counts as it stands. Only where no such file exists is it read in other ways, and only one file may come of them.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from htc_fast.data.numbers import as_json
from htc_fast.errors import UserError, brief, few


def check_inside(name: str, path: Path) -> None:
    """Refuse a file name that does not stay within the image folder.

    path    the annotation file it stands in
    raises  UserError that says what to write instead
    """
    parts, depth = PurePosixPath(name.replace("\\", "/")), 0
    # A drive, the scheme of an address, a root; 12:30.jpg and a:b.jpg are names.
    if re.match(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]+://|[\\/]", name):
        raise UserError(
            f"{path}: file_name {as_json(name)} leaves the image folder, as it begins at the root of a machine: write "
            f"it relative to that folder, such as {brief(parts.name or 'a.jpg')}."
        )
    for part in parts.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if depth <= 0 or "\0" in name:
        raise UserError(
            f"{path}: file_name {as_json(name)} leaves the image folder: expected a path relative to it, without '..'."
        )


class Folder:
    """A folder of pictures, each folder in it listed once: asked for names, it gives files."""

    def __init__(self, path: Path):
        self.path = path
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._there: dict[str, set[str]] = {}

    def find(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The files that names mean.

        returns  name -> file, for names that stand for another one than they say; name -> files it may mean, for those
                 that have none (an empty list) or more than one, or the file that another name has
        """
        other: dict[str, str] = {}
        missing: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            if not self._has(name):
                found = sorted({one for reading in _readings(name, self.path) for one in self._alike(reading)})
                if len(found) == 1:
                    other[name] = found[0]
                else:
                    missing[name] = found
        if other:
            taken = Counter([*other.values(), *(os.path.normpath(name) for name in names if name not in other)])
            for name, file in list(other.items()):
                if taken[file] > 1:
                    missing[name] = [other.pop(name)]
        return other, missing

    def file(self, name: str) -> Path:
        """The file that one name means; as it says where there is none or more than one."""
        return self.path / self.find([name])[0].get(name, name)

    def _has(self, name: str) -> bool:
        place, file = os.path.split(name)
        if place not in self._there:
            self._there[place] = _listing(self.path / place)
        return file in self._there[place]

    def _alike(self, name: str) -> list[str]:
        """The file itself, or those that differ in upper and lower case or in how accents are stored."""
        if self._has(name):
            return [name]
        place, file = os.path.split(name)
        if place not in self._listed:
            self._listed[place] = {}
            for one in self._there[place]:
                self._listed[place].setdefault(folded(one), []).append(one)
        return [os.path.join(place, one) for one in self._listed[place].get(folded(file), [])]


def _listing(place: Path) -> set[str]:
    try:
        return set(os.listdir(place))
    # No such folder, a name too long or with letters that no file may have.
    except (OSError, ValueError):
        return set()


def folded(name: str) -> str:
    """A name as it is compared where capitals and the spelling of accents do not matter."""
    return unicodedata.normalize("NFC", name).casefold()


def _readings(name: str, folder: Path) -> Iterator[str]:
    """What a name may mean: separators of Windows, spaces around it, %20, a path that begins above the folder."""
    for one in dict.fromkeys([name, name.strip(), unquote(name), unquote(name).strip()]):
        if "\0" in one:
            continue
        path = PurePosixPath(os.path.normpath(one.replace("\\", "/")))
        if path.is_absolute() or path.parts[:1] in ((), ("..",)):
            continue
        yield str(path)
        above = folder.absolute().parts
        for count in range(1, len(path.parts)):
            if path.parts[:count] == above[-count:]:
                yield str(PurePosixPath(*path.parts[count:]))


def find_files(path: Path, folder: Path, names: list[str], complete: bool = True) -> dict[str, str]:
    """The files of pictures that are called otherwise than their names say; see `Folder`.

    complete  whether all must be there: one listing per folder tells before hours of training do
    raises    UserError if a picture is missing
    """
    other, missing = Folder(folder).find(names)
    if missing and complete:
        told = [
            brief(name) + (f", which may mean {' or '.join(map(brief, found[:2]))}" if found else "")
            for name, found in missing.items()
        ]
        raise UserError(
            f"{len(missing)} of {len(names)} pictures are missing in {folder} ({few(told, most=3)}): "
            f"fetch them or take them out of {path.name}."
        )
    return other
