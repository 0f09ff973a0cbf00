"""A profile as one picture: bars of parts against the limit, and shares of the limit beside the paper's."""

import hashlib
import json
from itertools import groupby
from pathlib import Path

from htc_fast.profiling.legend import COLOURS, ORDER, REMAINS, in_order, label, short

OURS, THEIRS = "#1b5e8c", "#c8564b"
GAP, THICK, THIN = 0.7, 0.5, 0.24


def draw(result: dict, path: Path) -> Path:
    """Write the picture; it carries the digest of what it shows.

    result  as `profile.json` holds it
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines, groups, height = _places(result)
    figure, (bars, shares) = pyplot.subplots(
        1, 2, figsize=(15, 1.6 + 0.34 * height), width_ratios=(2.6, 1), sharey=True, layout="constrained"
    )
    _bars(bars, lines)
    _shares(shares, lines, groups, result.get("paper", {}))
    bars.set_yticks([y for y, _ in lines], [_words(row) for _, row in lines], fontsize=8)
    for case, y in groups.items():
        bars.text(0.004, y - 0.62, case, transform=bars.get_yaxis_transform(), weight="bold", fontsize=9, va="center")
    bars.set_ylim(height - 0.2, -GAP - 0.3)
    for axes in (bars, shares):
        axes.spines[["top", "right"]].set_visible(False)
    setting, machine = result["setting"], result["machine"]
    count = setting["batch_size"]
    pictures = f"{count} picture{'s' * (count > 1)} of {'×'.join(map(str, setting['size']))}"
    figure.suptitle(f"{machine['device']}, {pictures}, torch {machine['torch']}, {machine['date']}", fontsize=11)
    figure.savefig(path, dpi=100, metadata={"Source": digest(result)})
    pyplot.close(figure)
    return path


def digest(result: dict) -> str:
    """Tells results apart; part of a picture's metadata."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _words(row: dict) -> str:
    return short(row["dtype"]) if row["mode"] == "peer" else f"{row['mode']}, {short(row['dtype'])}"


def _places(result: dict) -> tuple[list[tuple[float, dict]], dict[str, float], float]:
    """Rows with their y, cases with the y of their first row, and where the last ends."""
    lines: list[tuple[float, dict]] = []
    groups: dict[str, float] = {}
    y = 0.0
    for case, rows in groupby(result["rows"], key=lambda row: row["case"]):
        groups.setdefault(case, y)
        for row in rows:
            lines.append((y, row))
            y += 1
        y += GAP + (case in result.get("paper", {}))
    return lines, groups, y - GAP


def _bars(axes, lines: list[tuple[float, dict]]) -> None:
    handles: dict[str, object] = {}
    for y, row in lines:
        for values, height, at, alpha in (("ms", THICK, y - 0.1, 1.0), ("limit_ms", THIN, y + 0.27, 0.6)):
            left = 0.0
            for name in in_order(row["parts"]):
                width = row["parts"][name][values]
                if width <= 0:
                    continue
                colour = COLOURS.get(name, COLOURS["rest"])
                made = axes.barh(at, width, height, left, color=colour, alpha=alpha, edgecolor="white", linewidth=0.4)
                if values == "ms":
                    handles.setdefault(label(name, row["parts"]), made)
                left += width
        taken = row.get("graph_ms", row["ms"])
        axes.text(max(row["ms"], row["limit_ms"]), y, f" {taken:.4g} ms", va="center", fontsize=8)
    axes.margins(x=0.08)
    axes.set_xlabel("ms: thick what it took, thin what this device's copy and product would allow", fontsize=9)
    words = [word for word in dict.fromkeys(REMAINS.get(name, name) for name in ORDER) if word in handles]
    words += [word for word in handles if word not in words]
    axes.legend(
        [handles[word] for word in words],
        words,
        ncols=9,
        fontsize=7.5,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
    )


def _shares(axes, lines: list[tuple[float, dict]], groups: dict[str, float], papers: dict) -> None:
    for y, row in lines:
        axes.barh(y, row["share"] * 100, 0.6, color=OURS if row["mode"] != "peer" else "#8a8a8a")
        words = f"{row['images_per_second']:.3g} img/s, {row['share']:.0%}"
        inside = row["share"] > 0.4
        axes.text(
            1 if inside else row["share"] * 100 + 1,
            y,
            words,
            va="center",
            fontsize=8,
            color="white" if inside else "black",
        )
    for case, paper in papers.items():
        if case in groups:
            y = groups[case] + sum(row["case"] == case for _, row in lines) - 0.1
            axes.barh(y, paper["share"] * 100, 0.5, color=THEIRS)
            words = f"paper: {paper['fps']:g} fps, {paper['share']:.0%} of its card's limit"
            axes.text(paper["share"] * 100 + 1, y, words, va="center", fontsize=8)
    axes.set_xlim(0, max([105.0, *(row["share"] * 105 for _, row in lines)]))
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("% of the limit: here, and on the paper's TITAN Xp", fontsize=9)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.tick_params(left=False)
