"""`python -m htc_fast.predict PICTURES...`: overlays as pictures, and COCO results as JSON."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.network import Inference
from htc_fast.commands.options import parse
from htc_fast.commands.output import JsonList
from htc_fast.data.annotations import Annotations, read_annotations
from htc_fast.data.classes import default_classes
from htc_fast.data.formats import pictures_in
from htc_fast.data.instances import Instances
from htc_fast.detector import Detector
from htc_fast.errors import UserError
from htc_fast.inference.draw import draw
from htc_fast.inference.fonts import open_font
from htc_fast.inference.predict import Sources, stream
from htc_fast.inference.threads import Behind

ABOUT = "Find objects in pictures and draw them."


@dataclass(frozen=True, kw_only=True)
class PredictionRun(Inference):
    """Everything that a prediction is told."""

    POSITIONAL: ClassVar = "pictures"

    pictures: Annotated[tuple[str, ...], "files, folders or globs", "PICTURES"] = ()
    annotations: Annotated[Path | None, "COCO file that names the classes, and the pictures' ids if it lists them"] = (
        None
    )
    out: Annotated[Path, "folder of the overlays and results.json", "DIR"] = Path("predictions")
    score: Annotated[float, "leave out what is scored lower"] = 0.3
    stage: Annotated[int | None, "one stage of the cascade alone instead of the ensemble"] = None
    boxes: Annotated[bool, "draw boxes too"] = False
    font: Annotated[Path | None, "font to write class names in, where none here has their letters", "FILE"] = None
    overlays: Annotated[bool, "draw pictures; --no-overlays: write results.json only"] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.score <= 1:
            raise UserError("--score takes a number from 0 to 1.")


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
    overlays = name_overlays(sources, run.out)
    known = read_annotations(run.annotations) if run.annotations else None
    model = run.load(len(known.classes) if known else None)
    names, category_ids = find_classes(model, known)
    ids = name_pictures(sources, known)
    failed = drawn = 0
    bar = tqdm(total=len(sources), desc="predicting", unit="img", disable=None)
    with bar, JsonList(run.out / "results.json") as results, Behind(threads=2, depth=8) as behind:
        for index, found in predictions(run, model, sources, names):
            bar.update()
            if isinstance(found, UserError):
                failed += 1
                bar.write(f"skipped: {found}", file=sys.stderr)
                continue
            drawn += len(found)
            items = found.to_coco(ids[index], category_ids)
            results.add({**item, "file_name": str(sources[index])} for item in items)
            if run.overlays:
                behind(save_overlay, sources[index], found, overlays[index], run.boxes, run.font)
    skipped = f", {failed} skipped" if failed else ""
    print(f"{len(sources) - failed} pictures{skipped}, {drawn} instances: {run.out}")
    return failed


def predictions(
    run: PredictionRun, model: Detector, sources: list[Path], names: Sequence[str]
) -> Iterator[tuple[int, Instances | UserError]]:
    """Pairs of (picture number, its instances or its error)."""
    with run.ready(model, run.stage) as form:
        yield from stream(
            form,
            len(sources),
            Sources(sources),
            size=run.size,
            batch_size=run.batch_size,
            score_threshold=run.score,
            class_names=names,
            workers=run.workers,
        )


def find_pictures(patterns: Sequence[str]) -> list[Path]:
    """Files as they are, the pictures in folders, and what globs match; each once.

    raises  UserError if a folder or glob gives nothing, or nothing is left to do
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found += pictures_in(path)
        elif not path.exists() and glob.has_magic(pattern):
            matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
            if not matches:
                raise UserError(f"nothing matches {pattern}: check the path.")
            found += matches
        else:
            found.append(path)
    if not found:
        raise UserError("no pictures to predict: name files, folders or globs.")
    return list({os.path.abspath(path): path for path in found}.values())


def name_overlays(sources: list[Path], out: Path) -> list[Path]:
    """Where each picture's overlay goes; pictures of the same stem get numbers.

    raises  UserError if an overlay would replace a picture
    """
    taken = {os.path.abspath(source) for source in sources}
    used: set[Path] = set()
    overlays = []
    for source in sources:
        path, number = out / f"{source.stem}.jpg", 2
        while path in used:
            path, number = out / f"{source.stem}-{number}.jpg", number + 1
        if os.path.abspath(path) in taken:
            raise UserError(f"the overlay {path} would replace the picture itself: choose another --out.")
        used.add(path)
        overlays.append(path)
    return overlays


def find_classes(model: Detector, known: Annotations | None) -> tuple[Sequence[str], Sequence[int | str]]:
    """Class names and category ids: the annotation file's, else the weights file's, else COCO's or numbers."""
    count = model.config.num_classes
    if known is not None:
        if len(known.classes) != count:
            raise UserError(
                f"the model has {count} classes, --annotations has {len(known.classes)}: they must be equal."
            )
        return known.classes, known.category_ids
    names, ids = default_classes(count)
    return model.config.class_names or names, model.config.category_ids or ids


def name_pictures(sources: list[Path], known: Annotations | None) -> list:
    """Image ids: those of --annotations by file name, else the number a name consists of (COCO's), else 1, 2, ..."""
    if known is not None:
        listed = {Path(picture.file_name).name: picture.id for picture in known.pictures}
        ids = [listed.get(source.name) for source in sources]
        if None not in ids:
            return ids
    stems = [source.stem for source in sources]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(sources) + 1))


def save_overlay(source: Path, found: Instances, path: Path, boxes: bool, font: Path | None = None) -> None:
    """Draw and save one picture.

    raises  UserError if it cannot be written
    """
    picture = draw(source, found, boxes=boxes, font=font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another --out.") from None


if __name__ == "__main__":
    entry.run(main)
