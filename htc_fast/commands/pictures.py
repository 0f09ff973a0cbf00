"""Which pictures a command is to look at, who they are in an annotation file, and what their overlays are called."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from htc_fast.commands.network import Predicting
from htc_fast.data.annotations import Annotations
from htc_fast.data.classes import classes_of, names_for, near_misses, shared_labels
from htc_fast.data.formats import SUFFIXES, VIDEOS, pictures_in
from htc_fast.data.listed import find_listed, fresh_ids, numbers_in_names
from htc_fast.data.numbers import identity
from htc_fast.data.pictures import load_image
from htc_fast.data.video import is_stream
from htc_fast.data.windows import Windows, open_windows
from htc_fast.detector import holds_weights
from htc_fast.errors import UserError, few, say_once

Size = tuple[int, int]


def find_pictures(patterns: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Files as they are, the pictures in folders, and what globs match; each once.

    suffixes  of what is taken from folders
    raises    UserError if a folder or glob gives nothing, or nothing is left to do
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if os.path.isdir(path):
            found += pictures_in(path, suffixes)
        elif not os.path.exists(path) and glob.has_magic(pattern):
            matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
            if not matches:
                raise UserError(f"nothing matches {pattern}: check the path.")
            say_unreadable(pattern)
            found += matches
        else:
            found.append(path)
    if not found:
        raise UserError("no pictures to predict: name files, folders or globs.")
    return list({os.path.abspath(path): path for path in found}.values())


def say_unreadable(pattern: str) -> None:
    """Say which folders a pattern with ** did not look into, which glob does not."""
    start, deep, _ = pattern.partition("**")
    if not deep or glob.has_magic(start):
        return
    errors: list[OSError] = []
    for _ in os.walk(os.path.dirname(start) or ".", onerror=errors.append):
        pass
    if errors:
        say_once(
            f"{len(errors)} folder{'' if len(errors) == 1 else 's'} that {pattern} leads to cannot be read "
            f"({errors[0].filename}: {errors[0].strerror}), so the pictures in there are left out."
        )


def may_be_weights(path: Path) -> bool:
    """Whether that may name a checkpoint: no folder without one, a pattern, a stream, a picture or video by suffix."""
    if os.path.isdir(path):
        return holds_weights(path)
    return not (glob.has_magic(str(path)) or is_stream(path) or path.suffix.lower() in (*SUFFIXES, *VIDEOS))


def stems(sources: Sequence[Path]) -> list[str]:
    """A name of its own for each picture's results: its stem; pictures of the same stem get numbers."""
    used: set[str] = set()
    names = []
    for source in sources:
        name, number = source.stem, 2
        while name in used:
            name, number = f"{source.stem}-{number}", number + 1
        used.add(name)
        names.append(name)
    return names


def name_overlays(sources: list[Path], out: Path, suffix: str = ".jpg") -> list[Path]:
    """Where each picture's (or video's) overlay goes; see `stems`.

    raises  UserError if an overlay would replace one of them
    """
    taken = {os.path.abspath(source) for source in sources}
    # Beside the pictures a file of the overlay's name may be a picture too, though it is not predicted.
    among = os.path.realpath(out) in {os.path.realpath(source.parent) for source in sources}
    overlays = [out / f"{name}{suffix}" for name in stems(sources)]
    for path in overlays:
        if os.path.abspath(path) in taken or (among and os.path.exists(path)):
            what = "picture" if suffix == ".jpg" else "video"
            raise UserError(f"the overlay {path} would replace a {what}: choose another --out.")
    return overlays


def name_pictures(
    sources: list[Path], known: Annotations | None, file: str
) -> tuple[list[int | str], list[Size | None]]:
    """Image ids and (height, width): those of --annotations, by the end of the path; ids of the others are others.

    raises  UserError where two pictures may be the same one
    """
    if known is None:
        if numbers_in_names(sources) is None and any(source.stem.isdigit() for source in sources):
            say_once("not every picture's name is a number of its own, so image ids count from 1 in their order.")
        return list(fresh_ids(sources)), [None] * len(sources)
    found = find_listed(sources, known.file_names, file)
    if found.roughly:
        number, place = found.roughly[0], found.places[found.roughly[0]]
        say_once(
            f"{len(found.roughly)} of {len(sources)} pictures {_are(found.roughly)} not where {file} lists them, and "
            f"matched by the end of the path ({sources[number]} for {known.file_names[place or 0]})."
        )
    others = [number for number, place in enumerate(found.places) if place is None]
    listed = [picture.id for picture in known.pictures]
    taken = [identity(one) for one in listed]  # "5" is 5
    given = dict(zip(others, fresh_ids([sources[number] for number in others], taken)))
    if others:
        few_of_them = few([str(sources[number]) for number in others], most=3)
        say_once(
            f"{len(others)} of {len(sources)} pictures {_are(others)} not listed in {file} ({few_of_them}), so results "
            f"have image ids for them that it has not: {few([given[number] for number in others], most=3)}."
        )
    ids = [given[number] if place is None else listed[place] for number, place in enumerate(found.places)]
    return ids, [None if place is None else known.sizes[place] for place in found.places]


def find_classes(
    model: Predicting, known: Annotations | None, file: str
) -> tuple[Sequence[str], Sequence[int | str | None]]:
    """Class names and category ids by label: names are the model's, ids those that --annotations has for the names."""
    if known is None:
        return classes_of(model.config)
    names = names_for(model.config, known, file)
    labels = {label: there for there, label in shared_labels(known, names, file).items()}
    lacking = [name for label, name in enumerate(names) if label not in labels]
    if lacking:
        hint = near_misses(lacking, known.classes)
        say_once(
            f"{file} lacks {len(lacking)} of the model's {len(names)} classes ({few(lacking)}){hint}: objects of these "
            "have no category id and are drawn, but left out of results.json."
        )
    return names, [known.category_ids[labels[label]] if label in labels else None for label in range(len(names))]


def load_listed(source: Path, size: Size | None) -> np.ndarray:
    """A picture, turned as its annotations were drawn if it has their size (height, width); else as it says itself."""
    try:
        return load_image(source, size)
    except UserError:
        return load_image(source)


def open_listed(source: Path, size: Size | None) -> Windows:
    """The same, to be read in bands of rows."""
    try:
        return open_windows(source, size)
    except UserError:
        return open_windows(source)


def say_sizes(unlike: list[tuple[Path, Size]], file: str) -> None:
    """Say that pictures are not of the size that the annotation file lists: (path, (height, width))."""
    if unlike:
        source, (height, width) = unlike[0]
        say_once(
            f"{len(unlike)} picture{'' if len(unlike) == 1 else 's'} {_are(unlike)} of another size than {file} lists "
            f"({source}, {width} x {height} pixels), so another one may have that name; results are in its own pixels."
        )


def _are(ones: Sequence) -> str:
    return "is" if len(ones) == 1 else "are"
