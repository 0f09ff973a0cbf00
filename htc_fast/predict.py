"""`python -m htc_fast.predict PICTURES...`: overlays as pictures, and results as COCO's or other tools' files."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.exports import FILES, Exports, check_formats
from htc_fast.commands.network import Inference, Predicting
from htc_fast.commands.options import parse
from htc_fast.commands.output import writing
from htc_fast.commands.pictures import (
    Size,
    find_classes,
    load_listed,
    may_be_weights,
    name_overlays,
    name_pictures,
    open_listed,
    say_sizes,
    stems,
)
from htc_fast.commands.video import Films, Showing, find_sources, first_id, name_films, predict_films
from htc_fast.data.annotations import read_annotations
from htc_fast.data.draw import draw
from htc_fast.data.fonts import open_font
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError, brief, check_count, check_number, check_score, few, say_once
from htc_fast.inference.predict import say_full, stream, stream_tiles
from htc_fast.inference.threads import Behind

LARGEST_OVERLAY = 2000  # pixels a side, of a picture in tiles
ABOUT = "Find objects in pictures and draw them."


@dataclass(frozen=True, kw_only=True)
class PredictionRun(Inference):
    """Everything that a prediction is told."""

    POSITIONAL: ClassVar = "pictures"

    pictures: Annotated[
        tuple[str, ...], "pictures or videos: files, folders, globs; streams (rtsp://…, http://…, -)", "PICTURES"
    ] = ()
    annotations: Annotated[Path | None, "COCO file whose category ids and image ids the results get, by name"] = None
    out: Annotated[Path, "folder of the overlays and results", "DIR"] = Path("predictions")
    format: Annotated[tuple[str, ...], f"results to write, one or more: {', '.join(FILES)}", "NAME"] = ("coco",)
    tolerance: Annotated[
        float, "labelme, yolo: how far outlines may leave the masks' edges, to have fewer corners", "PX"
    ] = 0.0
    score: Annotated[float, "leave out what is scored lower"] = 0.3
    stage: Annotated[int | None, "one stage of the cascade alone instead of the ensemble"] = None
    boxes: Annotated[bool, "draw boxes too"] = False
    font: Annotated[Path | None, "font to write class names in, where none here has their letters", "FILE"] = None
    every: Annotated[int, "of how many frames of a video one is looked at", "N"] = 1
    overlays: Annotated[bool, "draw pictures; --no-overlays: write results only"] = True

    def __post_init__(self) -> None:
        if isinstance(self.format, str):
            object.__setattr__(self, "format", (self.format,))
        super().__post_init__()
        check_score("--score", self.score)
        check_number("--tolerance", self.tolerance, zero=True)
        check_count("--every", self.every)
        if not self.pictures:
            # Behind --weights, which takes all that follows: no checkpoint is a pattern, a picture or a folder of them.
            first = next((i for i, one in enumerate(self.weights) if i and not may_be_weights(one)), None)
            pictures = () if first is None else tuple(map(str, self.weights[first:]))
            object.__setattr__(self, "pictures", pictures)
            object.__setattr__(self, "weights", self.weights[:first])
        if not self.pictures:
            # Behind --format, what is there on disk is no name of a format.
            first = next((i for i, one in enumerate(self.format) if i and _on_disk(one)), None)
            object.__setattr__(self, "pictures", () if first is None else self.format[first:])
            object.__setattr__(self, "format", self.format[:first])
        check_formats(self.format)

    def options(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Those of `inference.predict.stream`."""
        return {
            "size": self.size,
            "batch_size": self.batch_size,
            "score_threshold": self.score,
            "class_names": class_names,
            "workers": self.workers,
        }


def main() -> int:
    """Predict, as the options say; pictures that cannot be read make the exit status 1."""
    return 1 if predict(parse(PredictionRun, "predict", ABOUT)) else 0


def predict(run: PredictionRun) -> int:
    """Predict every picture and video, and write overlays and results.

    returns  how many could not be read; each is reported
    """
    sources, videos = find_sources(run.pictures)
    if videos and run.tile is not None:
        raise UserError(f"--tile is for pictures: leave it out for videos, such as {brief(videos[0])}.")
    if run.font is not None:
        open_font(run.font)  # before the work that would be lost
    overlays = name_overlays(sources, run.out) if run.overlays else []
    exports = Exports(run.format, run.out, sources, stems(sources), run.annotations, run.tolerance)
    films = name_films(videos, run.out if run.overlays else None)
    known = read_annotations(run.annotations) if run.annotations else None
    file = run.annotations.name if run.annotations else ""
    ids, sizes = name_pictures(sources, known, file)
    model = run.load()
    names, category_ids = find_classes(model, known, file)
    failed, drawn, unlike = 0, 0, list[tuple[Path, Size]]()
    nameless: Counter[str] = Counter()
    bar = tqdm(total=len(sources), desc="predicting", unit="img", disable=None if sources else True)
    with bar, exports, Behind(threads=2, depth=8) as behind:
        exports.begin(names)
        for index, found in predictions(run, model, sources, sizes, names) if sources else ():
            bar.update()
            if isinstance(found, UserError):
                failed += 1
                bar.write(f"skipped: {found}", file=sys.stderr)
                continue
            if run.tile is None:
                say_full(model, found, run.score)
            unlike += [(sources[index], found.size)] if sizes[index] not in (None, found.size) else []
            drawn += len(found)
            exports.add(index, found, ids[index], category_ids)
            behind(exports.write, index, found)
            nameless.update(names[label] for label in found.labels.tolist() if category_ids[label] is None)
            if run.overlays:
                behind(save_overlay, sources[index], found, overlays[index], run.boxes, run.font, run.tile is not None)
        bar.close()
        broken = watch(run, model, films, exports, names, category_ids, first_id(ids, known)) if films else 0
    if films and not sources:
        return broken
    say_sizes(unlike, file)
    skipped = f", {failed} skipped" if failed else ""
    without = f" ({nameless.total()} of them not in results.json: {file} has no {few(list(nameless))})"
    without = without if nameless and "coco" in run.format else ""
    without += f" ({exports.blank} of them, without a pixel, have no outline)" if exports.blank else ""
    print(f"{len(sources) - failed} pictures{skipped}, {drawn} instances{without}: {run.out}")
    return failed + broken


def _on_disk(name: str) -> bool:
    return name not in FILES and (os.path.exists(name) or glob.has_magic(name))


def predictions(
    run: PredictionRun, model: Predicting, sources: list[Path], sizes: Sequence[Size | None], names: Sequence[str]
) -> Iterator[tuple[int, Instances | UserError]]:
    """Pairs of (picture number, its instances or its error)."""
    options = run.options(names)
    with run.ready(model, run.stage) as form:
        if run.tiling is None:
            yield from stream(form, len(sources), lambda i: load_listed(sources[i], sizes[i]), **options)
        else:
            order, opened = range(len(sources)), lambda i: open_listed(sources[i], sizes[i])
            yield from stream_tiles(form, order, opened, run.tiling, progress=True, **options)


def watch(
    run: PredictionRun,
    model: Predicting,
    films: Films,
    exports: Exports,
    names: Sequence[str],
    category_ids: Sequence[int | str | None],
    first: int,
) -> int:
    """Predict videos, as the options say; returns how many could not be read, or not to their end."""
    with run.ready(model, run.stage) as form:
        showing = Showing(run.every, run.boxes, run.font, run.options(names))
        return predict_films(form, films, exports, category_ids, first, showing)


def save_overlay(
    source: Path, found: Instances, path: Path, boxes: bool, font: Path | None = None, tiled: bool = False
) -> None:
    """Draw and save one picture; of one that was looked at in tiles at most some thousand pixels a side.

    raises  UserError if it cannot be written
    """
    if tiled and max(found.size) > LARGEST_OVERLAY:
        with open_listed(source, found.size) as whole:
            small = whole.reduced(LARGEST_OVERLAY)
        say_once(f"overlays of more than {LARGEST_OVERLAY} pixels a side are drawn smaller; results are not.")
        picture = draw(small, found.resized((small.shape[0], small.shape[1])), boxes=boxes, font=font)
    else:
        picture = draw(load_listed(source, found.size), found, boxes=boxes, font=font)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)


if __name__ == "__main__":
    entry.run(main)
