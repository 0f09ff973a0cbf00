"""Drawings of an evaluation's numbers: precision over recall, scores against the truth, AP by stage."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from htc_fast.evaluation.report import LEVELS

INK, PALE, ACCENT, SECOND = "#1b2733", "#9aa7b4", "#1f6feb", "#d9622b"
KIND_COLOURS = {"mask": ACCENT, "box": SECOND}
# Twenty that can be told apart, strong ones first.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"),
    *("#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#9edae5", "#dbdb8d", "#c7c7c7"),
)


def precision_recall(curves: dict[str, Any]) -> Figure:
    """Masks above, boxes below, by IoU: a thin line for each class, a thick one for the mean of all."""
    drawing = Figure(figsize=(11.4, 6.4), layout="constrained")
    panels = drawing.subplots(2, len(LEVELS), sharex=True, sharey=True)
    for row, kind in zip(panels, ("mask", "box")):
        for axes, level in zip(row, LEVELS):
            for colour, entry in zip(COLOURS, curves["classes"]):
                axes.plot(curves["recall"], entry[kind][level], color=colour, linewidth=1)
            if kind in curves["mean"]:
                axes.plot(curves["recall"], curves["mean"][kind][level], color=INK, linewidth=2.6)
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            axes.set_title(f"{kind}es, IoU {level}" if kind == "box" else f"{kind}s, IoU {level}", fontsize=10)
            _plain(axes)
    for axes in panels[:, 0]:
        axes.set_ylabel("precision")
    for axes in panels[-1]:
        axes.set_xlabel("recall")
    return drawing


def reliability(calibration: dict[str, Any], threshold: float) -> Figure:
    """Share of right detections by score, beside the score that they have; below, how many there are."""
    drawing = Figure(figsize=(5.4, 5), layout="constrained")
    upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = calibration["bins"]
    centres = [(one["low"] + one["high"]) / 2 for one in bins]
    widths = [0.92 * (one["high"] - one["low"]) for one in bins]
    upper.bar(centres, [one["right"] for one in bins], widths, color=ACCENT, alpha=0.8, label="right")
    for one in bins:
        upper.plot([one["low"], one["high"]], [one["score"]] * 2, color=SECOND, linewidth=2)
    upper.plot([], [], color=SECOND, linewidth=2, label="mean score")
    upper.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle="--")
    upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    lower.bar(centres, [one["count"] for one in bins], widths, color=PALE)
    lower.set(ylabel="detections", xlabel="score")
    counts = [one["count"] for one in bins]
    if bins and max(counts) > 20 * min(counts):
        lower.set_yscale("log")
    for axes in (upper, lower):
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=":")
        _plain(axes)
    return drawing


def by_stage(stages: dict[str, Any]) -> Figure:
    """AP of masks and boxes after each stage, and of all together."""
    drawing = Figure(figsize=(9, 2.9), layout="constrained")
    axes = drawing.add_subplot()
    for (kind, colour), below in zip(KIND_COLOURS.items(), (-14, 7)):
        values = [100 * max(one["metrics"][f"{kind}_AP"], 0.0) for one in stages.values()]
        axes.plot(range(len(values)), values, "o-", color=colour, label=f"{kind} AP")
        for place, value in enumerate(values):
            axes.annotate(
                f"{value:.1f}", (place, value), (0, below), textcoords="offset points", ha="center", fontsize=9
            )
    axes.set_xticks(range(len(stages)), list(stages))
    axes.margins(0.12, 0.3)
    axes.set_ylabel("AP in percent")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return drawing


def _plain(axes: Axes) -> None:
    """No frame above and on the right, a pale grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
