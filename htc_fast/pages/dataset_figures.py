"""The drawings of a data set's page."""

from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from htc_fast.data.statistics import SEEN, Split
from htc_fast.errors import brief
from htc_fast.pages.dataset_advice import LIMIT
from htc_fast.pages.page import shortened

COLOURS = ("#1f6feb", "#e8833a", "#2ca58d", "#8a63d2")
MOST_BARS = 60
MOST_DOTS = 2000  # that are drawn one by one; more are a picture


def coloured(splits: Sequence[Split]) -> Iterator[tuple[Split, str]]:
    """Each split with its colour."""
    return zip(splits, cycle(COLOURS))


def classes(splits: Sequence[Split]) -> Figure:
    """Objects of each class as bars, most frequent first; of many classes, dots."""
    counts = np.array([_counts(split, splits) for split in splits])
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    names = [_names(splits)[i] for i in order]
    drawing, axes = _figure(9, 3.2)
    if len(order) > MOST_BARS:
        for (_, colour), row in zip(coloured(splits), counts):
            axes.plot(np.arange(1, len(order) + 1)[row[order] > 0], row[order][row[order] > 0], ".", color=colour)
        axes.set(xlabel="classes, most frequent first", ylabel="objects", yscale="log")
    else:
        width = 0.8 / len(splits)
        for i, ((_, colour), row) in enumerate(zip(coloured(splits), counts)):
            axes.bar(np.arange(len(order)) + (i - (len(splits) - 1) / 2) * width, row[order], width, color=colour)
        axes.set_xticks(range(len(order)), [_short(name) for name in names], rotation=45, ha="right", fontsize=8)
        axes.set(ylabel="objects")
        if counts.any() and counts.max() > 100 * counts[counts > 0].min():
            axes.set_yscale("log")
    return drawing


def objects(splits: Sequence[Split]) -> Figure:
    """Sizes of objects as a network sees them, and beside their pictures; objects in a picture."""
    drawing = Figure(figsize=(11, 3.1), layout="constrained")
    seen, share, number = drawing.subplots(1, 3)
    edges = np.geomspace(2, 1400, 40)
    most = max(int(split.objects.max(initial=1)) for split in splits)
    steps = np.unique(np.linspace(0, most + 1, min(most + 2, 40)).astype(int)) - 0.5
    for split, colour in coloured(splits):
        look = {"color": colour, "alpha": 0.55}
        weights = np.full(len(split.seen), 100 / max(len(split.seen), 1))
        seen.hist(np.clip(split.seen, 2, 1400), edges, weights=weights, **look)
        sides = split.pictures[split.owners].prod(axis=1)
        parts = 100 * np.sqrt(split.areas / np.maximum(sides, 1))
        share.hist(np.clip(parts, 0, 100), np.linspace(0, 100, 41), weights=weights, **look)
        every = np.full(len(split.objects), 100 / max(len(split.objects), 1))
        number.hist(split.objects, steps, weights=every, **look)
    seen.set(xscale="log", xlabel=f"side, pixels at {SEEN[0]} × {SEEN[1]}", ylabel="% of objects")
    for side in (32, 96):
        seen.axvline(side, color="#5d6b79", linewidth=0.8, linestyle=":")
    if most > LIMIT:
        number.axvline(LIMIT + 0.5, color="#5d6b79", linewidth=0.8, linestyle=":")
    share.set(xlabel="side, % of the picture's", ylabel="% of objects")
    number.set(xlabel="objects in a picture", ylabel="% of pictures")
    for axes in (seen, share, number):
        _plain(axes)
    return drawing


def pictures(splits: Sequence[Split]) -> Figure:
    """Widths and heights of pictures; a larger dot is of more pictures."""
    drawing, axes = _figure(5.2, 3.6)
    for split, colour in coloured(splits):
        sizes, counts = np.unique(split.pictures, axis=0, return_counts=True)
        if len(sizes):
            area = 12 + 300 * counts / counts.sum()
            many = len(sizes) > MOST_DOTS
            axes.scatter(sizes[:, 1], sizes[:, 0], area, color=colour, alpha=0.45, linewidths=0, rasterized=many)
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return drawing


def _counts(split: Split, splits: Sequence[Split]) -> np.ndarray:
    own = dict(zip(split.classes, np.bincount(split.labels, minlength=len(split.classes))))
    return np.array([own.get(name, 0) for name in _names(splits)])


def _names(splits: Sequence[Split]) -> list[str]:
    return list(dict.fromkeys(name for split in splits for name in split.classes))


def _figure(width: float, height: float):
    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.subplots()
    _plain(axes)
    return drawing, axes


def _plain(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _short(name: str) -> str:
    # Half letters cannot be drawn, and a dollar sign would begin a formula.
    return shortened(brief(name), 18).replace("$", r"\$")
