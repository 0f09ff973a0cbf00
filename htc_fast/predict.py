"""`python -m htc_fast.predict PICTURES...`: overlays as pictures, and COCO results as JSON."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.network import Inference, Predicting
from htc_fast.commands.options import parse
from htc_fast.commands.output import JsonList, check_kept, writing
from htc_fast.commands.pictures import (
    Size,
    find_classes,
    find_pictures,
    load_listed,
    may_be_weights,
    name_overlays,
    name_pictures,
    say_sizes,
)
from htc_fast.data.annotations import read_annotations
from htc_fast.data.draw import draw
from htc_fast.data.fonts import open_font
from htc_fast.data.instances import Instances
from htc_fast.errors import UserError, check_score, few
from htc_fast.inference.predict import say_full, stream
from htc_fast.inference.threads import Behind

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
