"""`python -m htc_fast.predict PICTURES...`: overlays as pictures, and COCO results as JSON."""

import argparse
import glob
import os
import sys
from pathlib import Path

from tqdm import tqdm

from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.commands.output import JsonList
from htc_fast.data.annotations import Annotations, read_annotations
from htc_fast.data.classes import default_classes
from htc_fast.data.instances import Instances
from htc_fast.data.pictures import SUFFIXES, image_size
from htc_fast.detector import load
from htc_fast.device import autocast
from htc_fast.errors import UserError
from htc_fast.evaluation.coco import at_stage
from htc_fast.inference.draw import draw
from htc_fast.inference.optimize import optimized
from htc_fast.inference.predict import Sources, stream
from htc_fast.inference.threads import Behind


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = Parser(prog="python -m htc_fast.predict", description="Find objects in pictures and draw them.")
    add = made.add_argument
    add("pictures", nargs="*", metavar="PICTURES", help="files, folders or globs")
    add("--weights", type=Path, required=True, help="checkpoint: ours, mmdetection's, torchvision's or detectron2's")
    add("--model", help="name of the network, where the file does not say it: see htc_fast.list_models()")
    add("--annotations", type=Path, help="COCO file that names the classes, and the pictures' ids if it lists them")
    add("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    add("--score", type=float, default=0.3, help="leave out what is scored lower (default: 0.3)")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short side and, optionally, longest long side")
    add("--batch-size", type=int, default=1)
    add("--workers", type=int, default=0, help="threads that read pictures (default: 1 on a CPU, up to 8 on a GPU)")
    add("--stage", type=int, help="one stage of the cascade alone instead of the ensemble")
    add("--boxes", action="store_true", help="draw boxes too")
    add("--no-overlays", action="store_true", help="write results.json only")
    add("--optimize", action="store_true", help="fold and fuse the network first; on a GPU, one graph per size")
    add("--amp", action="store_true", help="compute in bf16 where that is safe and the device can")
    add("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    return made


def main() -> int:
    """Predict every picture; those that cannot be read are reported, and make the exit status 1."""
    options = parser().parse_args()
    if options.batch_size < 1 or not 0 <= options.score <= 1:
        raise UserError("--batch-size takes a number of at least 1, --score one from 0 to 1.")
    sources = find_pictures(options.pictures)
    overlays = name_overlays(sources, options.out)
    known = read_annotations(options.annotations) if options.annotations else None
    model = load(
        options.weights, name=options.model, num_classes=len(known.classes) if known else None, device=options.device
    )
    names, category_ids = find_classes(model, known)
    ids = name_pictures(sources, known)
    failed = drawn = 0
    bar = tqdm(total=len(sources), desc="predicting", unit="img", disable=None)
    with bar, JsonList(options.out / "results.json") as results, Behind(threads=2, depth=8) as behind:
        for index, found in predictions(model, sources, names, options):
            bar.update()
            if isinstance(found, UserError):
                failed += 1
                bar.write(f"skipped: {found}", file=sys.stderr)
                continue
            drawn += len(found)
            items = found.to_coco(ids[index], category_ids)
            results.add({**item, "file_name": str(sources[index])} for item in items)
            if not options.no_overlays:
                behind(save_overlay, sources[index], found, overlays[index], options.boxes)
    skipped = f", {failed} skipped" if failed else ""
    print(f"{len(sources) - failed} pictures{skipped}, {drawn} instances: {options.out}")
    return 1 if failed else 0


def predictions(model, sources: list[Path], names: list[str], options: argparse.Namespace):
    """Pairs of (picture number, its instances or its error)."""
    device = next(model.parameters()).device
    size = image_size(options.image_size)
    if options.optimize:
        model = optimized(model, size, options.batch_size, options.amp)
    with at_stage(model, options.stage), autocast(device, options.amp):
        yield from stream(
            model,
            len(sources),
            Sources(sources),
            size=size,
            batch_size=options.batch_size,
            score_threshold=options.score,
            class_names=names,
            workers=options.workers,
        )


def find_pictures(patterns: list[str]) -> list[Path]:
    """Files as they are, the pictures in folders, and what globs match; each once.

    raises  UserError if a folder or glob gives nothing, or nothing is left to do
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
            if not inside:
                raise UserError(f"folder {pattern} holds no pictures: expected files such as .jpg or .png.")
            found += inside
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


def find_classes(model, known: Annotations | None) -> tuple[list[str], list]:
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


def save_overlay(source: Path, found: Instances, path: Path, boxes: bool) -> None:
    """Draw and save one picture.

    raises  UserError if it cannot be written
    """
    picture = draw(source, found, boxes=boxes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room or choose another --out.") from None


if __name__ == "__main__":
    entry.run(main)
