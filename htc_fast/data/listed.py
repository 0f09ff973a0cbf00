"""Which of an annotation file's pictures a file on disk is: the one that its path ends with.

Folders count, so that a/1.png and b/1.png stay apart. What may be two pictures is refused, never guessed.
"""

import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from htc_fast.data.names import folded
from htc_fast.errors import UserError

Parts = tuple[str, ...]


@dataclass
class Found:
    """Where the files on disk are in a list of pictures.

    places    by file: index into the list, or None
    roughly   the files that are matched by part of the listed path alone, or but for capitals or accents' spelling
    """

    places: list[int | None]
    roughly: list[int] = field(default_factory=list)


def find_listed(sources: Sequence[Path], listed: Sequence[str], name: str) -> Found:
    """Match files with listed pictures by the longest end of their paths.

    A listed path that a file's path ends with goes before one that agrees in its last parts only, which is for folders
    that were moved: it counts where no file lies as it is listed.

    listed   file_name as annotation files have it: / or \\ between parts
    name     of the annotation file, for what is said
    raises   UserError if a file may be two listed pictures, or two files may be the same one
    """
    have, want = [_parts(os.path.abspath(one)) for one in sources], [_parts(one) for one in listed]
    found = Found([None] * len(sources))
    for whole in (True, False):
        if not whole and any(place is not None for place in found.places):
            break  # where some lie as they are listed, the others are other pictures of the same name
        taken = {place for place in found.places if place is not None}
        index = _by_end((place for place in range(len(want)) if place not in taken), want, whole)
        claims: dict[int, list[tuple[int, bool, int]]] = {}
        for source, parts in enumerate(have):
            if found.places[source] is not None:
                continue
            length, places = next(((n, index[end]) for n, end in _ends(parts) if end in index), (0, []))
            exact = [place for place in places if parts[-length:] == want[place][-length:]]
            places = exact or places
            if len(places) > 1:
                first, second = (listed[place] for place in places[:2])
                raise UserError(
                    f"{sources[source]} may be {first} or {second} of {name}: give it a path that ends like one of "
                    "them only, or leave it out."
                )
            if places:
                claims.setdefault(places[0], []).append((length, bool(exact), source))
        for place, rivals in claims.items():
            length, is_exact, source = max(rivals)
            equal = [one for *rank, one in rivals if rank == [length, is_exact]]
            if len(equal) > 1:
                raise UserError(
                    f"{sources[equal[0]]} and {sources[equal[1]]} may both be {listed[place]} of {name}: "
                    "predict one of them at a time."
                )
            found.places[source] = place
            if not (whole and is_exact):
                found.roughly.append(source)
    return found


def numbers_in_names(sources: Sequence[Path]) -> list[int] | None:
    """The numbers that the pictures' names consist of, as COCO's do; None unless all are numbers and differ."""
    stems = [source.stem for source in sources]
    if not all(stem.isascii() and stem.isdigit() for stem in stems):
        return None
    numbers = [int(stem) for stem in stems]
    return numbers if len(set(numbers)) == len(numbers) else None


def fresh_ids(sources: Sequence[Path], taken: Iterable[int | str | None] = ()) -> list[int]:
    """Image ids for pictures that have none: their names' numbers if these are free, else on from the largest taken."""
    taken = set(taken)
    numbers = numbers_in_names(sources)
    if numbers is not None and not taken.intersection(numbers):
        return numbers
    first = max((one for one in taken if isinstance(one, int)), default=0) + 1
    return list(range(max(first, 1), max(first, 1) + len(sources)))


def _parts(path: str) -> Parts:
    return tuple(part for part in posixpath.normpath(path.replace("\\", "/")).split("/") if part)


def _ends(parts: Parts) -> Iterable[tuple[int, Parts]]:
    """(length, the last parts as they are compared), longest first."""
    alike = tuple(folded(part) for part in parts)
    return ((length, alike[-length:]) for length in range(len(alike), 0, -1))


def _by_end(places: Iterable[int], want: Sequence[Parts], whole: bool) -> dict[Parts, list[int]]:
    """Listed pictures by their path, or by every end of it."""
    index: dict[Parts, list[int]] = {}
    for place in places:
        for _, end in _ends(want[place]):
            index.setdefault(end, []).append(place)
            if whole:
                break
    return index
