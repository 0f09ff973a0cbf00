"""`python -m htc_fast.predict PICTURES...`: overlays as pictures, and COCO results as JSON."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.network import Inference, Predicting
from htc_fast.commands.options import parse
from htc_fast.commands.output import JsonList, check_kept, writing
from htc_fast.data.annotations import Annotations, read_annotations
from htc_fast.data.classes import classes_of, names_for, near_misses, shared_labels
from htc_fast.data.formats import SUFFIXES, pictures_in
from htc_fast.data.instances import Instances
from htc_fast.data.listed import find_listed, fresh_ids, numbers_in_names
from htc_fast.data.numbers import identity
from htc_fast.data.pictures import load_image
from htc_fast.detector import holds_weights
from htc_fast.errors import UserError, check_score, few, say_once
from htc_fast.inference.draw import draw
from htc_fast.inference.fonts import open_font
from htc_fast.inference.predict import say_full, stream
from htc_fast.inference.threads import Behind

Size = tuple[int, int]
ABOUT = "Find objects in pictures and draw them."


@dataclass(frozen=True, kw_only=True)
class PredictionRun(Inference):
    """Everything that a prediction is told."""

    POSITIONAL: ClassVar = "pictures"

    pictures: Annotated[tuple[str, ...], "files, folders or globs", "PICTURES"] = ()
    annotations: Annotated[Path | None, "COCO file whose category ids and image ids the results get, by name"] = None
    out: Annotated[Path, "folder of the overlays and results.json", "DIR"] = Path("predictions")
    score: Annotated[float, "leave out what is scored lower"] = 0.3
    stage: Annotated[int | None, "one stage of the cascade alone instead of the ensemble"] = None
    boxes: Annotated[bool, "draw boxes too"] = False
    font: Annotated[Path | None, "font to write class names in, where none here has their letters", "FILE"] = None
    overlays: Annotated[bool, "draw pictures; --no-overlays: write results.json only"] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_score("--score", self.score)
        if not self.pictures:
            # Behind --weights, which takes all that follows: no checkpoint is a pattern, a picture or a folder of them.
            first = next((i for i, one in enumerate(self.weights) if i and not may_be_weights(one)), None)
            pictures = () if first is None else tuple(map(str, self.weights[first:]))
            object.__setattr__(self, "pictures", pictures)
            object.__setattr__(self, "weights", self.weights[:first])


def main() -> int:
    """Predict, as the options say; pictures that cannot be read make the exit status 1."""
    return 1 if predict(parse(PredictionRun, "predict", ABOUT)) else 0


def predict(run: PredictionRun) -> int:
    """Predict every picture, and write overlays and results.json.

    returns  how many could not be read; each is reported
    """
    sources = find_pictures(run.pictures)
    if run.font is not None:
        open_font(run.font)  # before the work that would be lost
    overlays = name_overlays(sources, run.out) if run.overlays else []
    check_kept(run.annotations, run.out, ["results.json"])
    known = read_annotations(run.annotations) if run.annotations else None
    file = run.annotations.name if run.annotations else ""
    ids, sizes = name_pictures(sources, known, file)
    model = run.load()
    names, category_ids = find_classes(model, known, file)
    failed, drawn, unlike = 0, 0, list[tuple[Path, Size]]()
    nameless: Counter[str] = Counter()
    bar = tqdm(total=len(sources), desc="predicting", unit="img", disable=None)
    with bar, JsonList(run.out / "results.json") as results, Behind(threads=2, depth=8) as behind:
        for index, found in predictions(run, model, sources, sizes, names):
            bar.update()
            if isinstance(found, UserError):
                failed += 1
                bar.write(f"skipped: {found}", file=sys.stderr)
                continue
            say_full(model, found, run.score)
            unlike += [(sources[index], found.size)] if sizes[index] not in (None, found.size) else []
            drawn += len(found)
            items = found.to_coco(ids[index], category_ids)
            results.add({**item, "file_name": str(sources[index])} for item in items)
            nameless.update(names[label] for label in found.labels.tolist() if category_ids[label] is None)
            if run.overlays:
                behind(save_overlay, sources[index], found, overlays[index], run.boxes, run.font)
    say_sizes(unlike, file)
    skipped = f", {failed} skipped" if failed else ""
    without = f" ({nameless.total()} of them not in results.json: {file} has no {few(list(nameless))})"
    print(f"{len(sources) - failed} pictures{skipped}, {drawn} instances{without if nameless else ''}: {run.out}")
    return failed


def predictions(
    run: PredictionRun, model: Predicting, sources: list[Path], sizes: Sequence[Size | None], names: Sequence[str]
) -> Iterator[tuple[int, Instances | UserError]]:
    """Pairs of (picture number, its instances or its error)."""
    with run.ready(model, run.stage) as form:
        yield from stream(
            form,
            len(sources),
            lambda index: load_listed(sources[index], sizes[index]),
            size=run.size,
            batch_size=run.batch_size,
            score_threshold=run.score,
            class_names=names,
            workers=run.workers,
        )


def load_listed(source: Path, size: Size | None) -> np.ndarray:
    """A picture, turned as its annotations were drawn if it has their size (height, width); else as it says itself."""
    try:
        return load_image(source, size)
    except UserError:
        return load_image(source)


def say_sizes(unlike: list[tuple[Path, Size]], file: str) -> None:
    """Say that pictures are not of the size that the annotation file lists: (path, (height, width))."""
    if unlike:
        source, (height, width) = unlike[0]
        say_once(
            f"{len(unlike)} picture{'' if len(unlike) == 1 else 's'} {_are(unlike)} of another size than {file} lists "
            f"({source}, {width} x {height} pixels), so another one may have that name; results are in its own pixels."
        )


def may_be_weights(path: Path) -> bool:
    """Whether that may name a checkpoint: no folder without one, nor a pattern, nor a picture by its suffix."""
    if os.path.isdir(path):
        return holds_weights(path)
    return not (glob.has_magic(str(path)) or path.suffix.lower() in SUFFIXES)


def find_pictures(patterns: Sequence[str]) -> list[Path]:
    """Files as they are, the pictures in folders, and what globs match; each once.

    raises  UserError if a folder or glob gives nothing, or nothing is left to do
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if os.path.isdir(path):
            found += pictures_in(path)
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


def name_overlays(sources: list[Path], out: Path) -> list[Path]:
    """Where each picture's overlay goes; pictures of the same stem get numbers.

    raises  UserError if an overlay would replace a picture
    """
    taken = {os.path.abspath(source) for source in sources}
    # Beside the pictures a file of the overlay's name may be a picture too, though it is not predicted.
    among = os.path.realpath(out) in {os.path.realpath(source.parent) for source in sources}
    used: set[Path] = set()
    overlays = []
    for source in sources:
        path, number = out / f"{source.stem}.jpg", 2
        while path in used:
            path, number = out / f"{source.stem}-{number}.jpg", number + 1
        if os.path.abspath(path) in taken or (among and os.path.exists(path)):
            raise UserError(f"the overlay {path} would replace a picture: choose another --out.")
        used.add(path)
        overlays.append(path)
    return overlays


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


def _are(ones: Sequence) -> str:
    return "is" if len(ones) == 1 else "are"


def save_overlay(source: Path, found: Instances, path: Path, boxes: bool, font: Path | None = None) -> None:
    """Draw and save one picture.

    raises  UserError if it cannot be written
    """
    picture = draw(load_listed(source, found.size), found, boxes=boxes, font=font)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)


if __name__ == "__main__":
    entry.run(main)
