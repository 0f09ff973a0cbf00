"""Pictures of a data set's page: some of them whole, and objects of each class cut out."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from htc_fast.data import runs
from htc_fast.data.coco import CocoDataset
from htc_fast.data.draw import draw
from htc_fast.data.instances import Instances
from htc_fast.data.statistics import Split
from htc_fast.data.windows import Windows
from htc_fast.errors import UserError
from htc_fast.pages.page import grid, picture, shortened, text

SHOWN_CLASSES = 24  # with a row of examples
EXAMPLES = 6  # of a class
AROUND = 0.3  # of an object's box, on each side of an example
SHEET, CUT = 640, 170  # pixels of a side at most
MOST_DRAWN = 1000  # objects of a picture on the contact sheet, the largest ones
BAND = 256  # rows that are in memory at once
Box = tuple[int, int, int, int]


def contact_sheet(datasets: dict[str, CocoDataset], splits: Sequence[Split], pictures: int) -> list[str]:
    """Pictures spread over each split with their masks drawn, those without objects last."""
    blocks = []
    for split, share in zip(splits, _shares([len(one.pictures) for one in splits], pictures)):
        order = [*np.flatnonzero(split.objects > 0), *np.flatnonzero(split.objects == 0)]
        most = max(int((split.objects > 0).sum()), share)
        for place in [int(order[round(i * (most - 1) / max(share - 1, 1))]) for i in range(share)]:
            name = shortened(datasets[split.name].picture(place).file_name, 80)
            count = int(split.objects[place])
            caption = f"{split.name}: {name}, {count:,} object{'s' * (count != 1)}"
            drawn = _whole(datasets[split.name], place)
            blocks.append(text(f"{caption} cannot be read.") if drawn is None else picture(drawn, caption))
    return blocks


def class_rows(
    datasets: dict[str, CocoDataset], splits: Sequence[Split], totals: Sequence[dict[str, Any]]
) -> list[str]:
    """A row of objects for each class, cut out of their pictures; the rarest of many classes.

    totals  name and objects of each class
    """
    counts = {one["name"]: one["objects"] for one in totals}
    names = sorted(counts, key=lambda name: counts[name])[:SHOWN_CLASSES]
    rows = [text(f"The {len(names)} rarest of {len(counts)} classes.")] if len(names) < len(counts) else []
    chosen = {name: _examples(splits, name) for name in counts if name in names}
    cuts = _cuts(datasets, [one for some in chosen.values() for one in some])
    for name, some in chosen.items():
        blocks = [cuts[one] for one in some if one in cuts]
        rows.append(text(f"{shortened(name, 80)}: {counts[name]:,}") + (grid(blocks, least=150) if blocks else ""))
    return rows


def _examples(splits: Sequence[Split], name: str) -> list[tuple[str, int, int]]:
    """Objects of a class, spread over its splits: the split, the picture's place, the number in the picture."""
    found: list[tuple[str, int, int]] = []
    for split in splits:
        mine = np.flatnonzero(split.labels == split.classes.index(name)) if name in split.classes else np.empty(0)
        for which in mine[np.linspace(0, len(mine) - 1, min(EXAMPLES, len(mine))).astype(int)] if len(mine) else ():
            owner = int(split.owners[which])
            found.append((split.name, owner, int(which - np.searchsorted(split.owners, owner))))
    return found[:EXAMPLES]


def _cuts(datasets: dict[str, CocoDataset], wanted: Sequence[tuple[str, int, int]]) -> dict[tuple[str, int, int], str]:
    """Examples as blocks of the page; each picture is opened once, and those that cannot be read give none."""
    by_picture = defaultdict[tuple[str, int], list[int]](list)
    for split, place, number in wanted:
        by_picture[split, place].append(number)
    found = {}
    for (split, place), numbers in by_picture.items():
        dataset = datasets[split]
        try:
            truth, name = dataset.truth(place), shortened(dataset.picture(place).file_name, 80)
            boxes = {number: _around(truth, number) for number in numbers}
            with dataset.windows(place) as windows:
                # A band is quick to come to from the one above.
                for number in sorted(numbers, key=lambda one: boxes[one][1]):
                    seen = _seen(windows, truth[[number]], boxes[number], CUT, enlarged=8)
                    found[split, place, number] = picture(draw(*seen, labels=False, scores=False), name, CUT)
        except UserError:
            continue
    return found


def _whole(dataset: CocoDataset, place: int) -> Image.Image | None:
    """A picture with its masks; None if it cannot be read."""
    try:
        truth = dataset.truth(place)
        if len(truth) > MOST_DRAWN:
            truth = truth[truth.areas.argsort(descending=True, stable=True)[:MOST_DRAWN]]
        (height, width), several = truth.size, len(dataset.classes) > 1
        with dataset.windows(place) as windows:
            return draw(*_seen(windows, truth, (0, 0, width, height), SHEET), labels=several, scores=False)
    except UserError:
        return None


def _around(truth: Instances, number: int) -> Box:
    """An object's box and some room, within the picture."""
    x1, y1, x2, y2 = truth.boxes[number].tolist()
    height, width = truth.size
    room = AROUND * max(x2 - x1, y2 - y1, 16)
    left, top = (min(max(0, int(one - room)), side - 1) for one, side in ((x1, width), (y1, height)))
    right, bottom = (min(side, int(one + room) + 1) for one, side in ((x2, width), (y2, height)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _seen(
    windows: Windows, truth: Instances, box: Box, most: int, enlarged: float = 1
) -> tuple[Image.Image, Instances]:
    """What a window of a picture shows, and the instances in it.

    most      pixels of a side
    enlarged  how many times as large as it is it may become
    """
    left, top, right, bottom = box
    # Two pixels of the file for one of the page: what is between them need not be in memory.
    step = max(1, max(right - left, bottom - top) // (2 * most))
    rows = max(1, BAND // step) * step
    # Copied, as a view keeps the rows that it skips.
    bands = [
        windows.read(y, min(y + rows, bottom), left, right)[::step, ::step].copy() for y in range(top, bottom, rows)
    ]
    scale = min(enlarged, most / max(right - left, bottom - top))
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    inside = Instances(
        boxes=truth.boxes - torch.tensor([left, top, left, top]),
        scores=truth.scores,
        labels=truth.labels,
        rle=runs.cropped(truth.rle, box) if len(truth) else [],
        size=(bottom - top, right - left),
        class_names=truth.class_names,
    )
    pixels = Image.fromarray(np.concatenate(bands))
    return pixels.resize(size[::-1], Image.Resampling.BILINEAR), inside.resized(size)


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of `count` each split shows: one at least as far as they go, then by its size."""
    shares = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        open_ones = [i for i, size in enumerate(sizes) if shares[i] < size]
        shares[min(open_ones, key=lambda i: (shares[i] > 0, (shares[i] + 1) / sizes[i]))] += 1
    return shares
