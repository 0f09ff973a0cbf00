"""The steps of all tables as one picture: ours with their intervals, beside the paper's."""

from pathlib import Path
from typing import Any

from htc_fast.ablation.report import about, paper_step, step_of
from htc_fast.ablation.tables import Table, chosen
from htc_fast.profiling.chart import digest

OURS, UNSUPPORTED, THEIRS = "#1b5e8c", "#9db4c4", "#c8564b"
LEGEND = (
    ("ours: mean over the seeds and its 95 % interval, supported", OURS, "o", OURS),
    ("ours: the interval holds 0, not supported", UNSUPPORTED, "o", "white"),
    ("each seed", UNSUPPORTED, "|", UNSUPPORTED),
    ("the paper's step, on COCO", THEIRS, "D", THEIRS),
)


def draw(result: dict[str, Any], path: Path) -> Path:
    """Write the picture; it carries the digest of what it shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tables = chosen(tuple(result["tables"]))
    heights = [len(table.rows) + 1 for table in tables]
    figure = Figure(figsize=(11, 1.5 + 0.34 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tables), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, table in zip(panels, tables, strict=True):
        _panel(axes, table, result)
    panels[-1].set_xlabel("step in mask AP, in points, from the row marked “base” of the same group")
    figure.legend(handles=_handles(), ncols=2, fontsize=8, frameon=False, loc="outside upper center")
    figure.savefig(path, dpi=110, metadata={"Source": digest(result), "Description": about(result)})
    return path


def _panel(axes: Any, table: Table, result: dict[str, Any]) -> None:
    for y, row in enumerate(table.rows):
        ours, theirs = step_of(result, table, row), paper_step(table, row)
        if table.rows[row.base] is row:
            axes.text(0, y, "base", fontsize=7.5, ha="center", va="center", color="#555555", backgroundcolor="white")
        if ours is not None:
            colour = OURS if ours.supported else UNSUPPORTED
            axes.plot(ours.single, [y - 0.12] * len(ours.single), "|", color=UNSUPPORTED, markersize=7)
            axes.errorbar(
                ours.mean,
                y - 0.12,
                xerr=ours.half,
                fmt="o",
                color=colour,
                markerfacecolor=OURS if ours.supported else "white",
                capsize=3,
                markersize=6,
            )
        if theirs is not None:
            axes.plot(theirs, y + 0.22, "D", color=THEIRS, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(table.rows)), [row.label for row in table.rows], fontsize=8)
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.set_title(f"Table {table.number}: {table.title}", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.3)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=colour, marker=marker, markerfacecolor=inside, linestyle="none", label=label)
        for label, colour, marker, inside in LEGEND
    ]
