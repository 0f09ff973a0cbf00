"""What is wrong with a data set, and what its numbers ask of a training: one sentence each."""

from collections.abc import Sequence

import numpy as np

from htc_fast.data.statistics import SEEN, TINY, Files, Split
from htc_fast.errors import MOST_DETECTIONS, brief, few

FEW = 10  # objects of a class that are too few to learn from
LIMIT = 100  # objects that a model gives in a picture, unless told otherwise
SMALL = 16  # pixels of a side as the network sees it, a cell or less of the pyramid's third level
SHORT_OF_PICTURES = 500
UNEQUAL = 20  # times as many pictures of the most frequent class as of the rarest


def problems(splits: Sequence[Split], files: Files) -> list[str]:
    """What a user would want to mend, worst first."""
    found = []
    if files.unreadable:
        shown = "; ".join(f"{brief(name)}: {why}" for name, why in files.unreadable[:3])
        more = f"; and {len(files.unreadable) - 3:,} more" if len(files.unreadable) > 3 else ""
        found.append(f"{_counted(len(files.unreadable), 'picture')} cannot be opened ({shown}{more}).")
    if files.resized:
        said = f"{_counted(len(files.resized), 'picture')} of another size than the annotations say"
        found.append(f"{said}: {few([_resized(*one) for one in files.resized], most=3)}.")
    across = [one for one in files.same if len({name.split(": ")[0] for name in one}) > 1]
    within = [one for one in files.same if one not in across]
    if across:
        found.append(
            f"{_counted(len(across), 'picture')} in more than one split, byte for byte, so AP is too high: "
            f"{few([_alike(one) for one in across], most=3)}."
        )
    if within:
        shown = few([_alike(one) for one in within], most=3)
        found.append(f"{_counted(len(within), 'picture')} more than once in a split: {shown}.")
    for split in splits:
        found += _of_split(split)
    return found + _between(splits)


def _of_split(split: Split) -> list[str]:
    found, counts = [], np.bincount(split.labels, minlength=len(split.classes))
    tiny = int((split.areas < TINY).sum())
    if tiny:
        found.append(f"{split.name}: {_counted(tiny, 'object')} of less than {TINY} pixels.")
    if split.doubled:
        found.append(f"{split.name}: {_counted(split.doubled, 'object')} annotated twice, with the same class and box.")
    none = [name for name, count in zip(split.classes, counts) if count == 0]
    if none and len(split.labels):
        found.append(f"{split.name}: no object of {_counted(len(none), 'class', 'classes')} ({few(none)}).")
    if not len(split.labels):
        found.append(f"{split.name}: no object at all.")
    return found


def _between(splits: Sequence[Split]) -> list[str]:
    found, first = [], splits[0]
    for other in splits[1:]:
        lacking = [name for name in first.classes if name not in other.classes]
        added = [name for name in other.classes if name not in first.classes]
        if lacking:
            found.append(f"{other.name} lists no class {few(lacking)}, which {first.name} has.")
        if added:
            found.append(f"{other.name} lists the class {few(added)}, which {first.name} lacks.")
    return found


def advice(splits: Sequence[Split], classes: Sequence[str]) -> list[str]:
    """What the numbers of the first split, which is trained on, ask for."""
    train, found = splits[0], []
    counts = np.bincount(train.labels, minlength=len(train.classes))
    rare = [name for name, count in zip(train.classes, counts) if 0 < count < FEW]
    if rare:
        found.append(f"{few(rare)}: fewer than {FEW} objects to learn from; annotate more of them.")
    pictures = np.array([one["pictures"] for one in train.by_class()])
    present = pictures[pictures > 0]
    if len(present) > 1 and present.max() > UNEQUAL * present.min():
        share = round(float(present.min()) / max(len(train.pictures), 1) * 3, 4)
        found.append(
            f"The most frequent class is in {present.max():,} pictures, the rarest in {present.min():,}: --repeat "
            f"{share:g} shows the rare ones more often."
        )
    if len(train.seen) and np.median(train.seen) < SMALL:
        found.append(
            f"Half of the objects are less than {np.median(train.seen):.0f} pixels a side where pictures are seen at "
            f"{SEEN[0]} × {SEEN[1]}: a larger --image-size, or --crop in training and --tile in prediction, keeps them."
        )
    most = max(int(split.objects.max(initial=0)) for split in splits)
    if most > LIMIT:
        limit = min(_round(most), MOST_DETECTIONS)
        found.append(f"A picture holds {most:,} objects and a model gives {LIMIT}: --detections {limit}.")
    empty = int((train.objects == 0).sum())
    if empty and len(train.labels):
        found.append(
            f"{_counted(empty, 'picture')} without objects, not trained on; --keep-empty takes them as examples of "
            "what is none."
        )
    if len(train.pictures) < SHORT_OF_PICTURES:
        found.append(
            f"{_counted(len(train.pictures), 'picture')} to train on: --weights coco --recipe small-data starts from "
            "what was learned on others."
        )
    return found


def _round(count: int) -> int:
    """The next of 150, 200, 300, 500, 1000, … above."""
    step = 10 ** (len(str(count)) - 1)
    return next(int(step * factor) for factor in (1, 1.5, 2, 3, 5, 10) if step * factor >= count)


def _counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _alike(names: Sequence[str]) -> str:
    more = f" = {len(names) - 3:,} more" if len(names) > 3 else ""
    return " = ".join(map(brief, names[:3])) + more


def _resized(name: str, size: tuple[int, int], listed: tuple[int, int]) -> str:
    return f"{brief(name)} is {size[1]} × {size[0]}, listed as {listed[1]} × {listed[0]}"
