"""A profile as one picture: bars of parts against the limit, and frames per second beside the paper's."""

from pathlib import Path

from htc_fast.profiling.report import ORDER, REMAINS, in_order, label

GROUPS = {
    "preprocess": "#9e9e9e", "data": "#9e9e9e", "backbone": "#1b5e8c", "FPN": "#4a90c2", "RPN head": "#8fc1e3",
    "proposals": "#c5dff2", "semantic": "#5b9a4b", "box stage 1": "#f2b134", "box stage 2": "#e59a1a",
    "box stage 3": "#cc7f0a", "detections": "#f7d794", "mask RoIAlign": "#e8a6a1", "mask stages": "#c8564b",
    "mask stage 1": "#d97a6c", "mask stage 2": "#c8564b", "mask stage 3": "#a83a32", "paste + RLE": "#7b5ea7",
    "forward": "#5b9a4b", "backward": "#6a4c93", "optimizer": "#a28ccf", "rest": "#d9d9d9",
}  # fmt: skip


def draw(result: dict, path: Path) -> Path:
    """Write the picture.

    result  as `profile.json` holds it
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result["rows"]
    figure, (bars, speed) = pyplot.subplots(
        1, 2, figsize=(15, 1.8 + 0.62 * len(rows)), width_ratios=(3, 1.3), sharey=True, layout="constrained"
    )
    _bars(bars, rows)
    _speed(speed, result)
    setting, machine = result["setting"], result["machine"]
    size = "×".join(map(str, setting["size"]))
    figure.suptitle(
        f"{machine['device']}, {setting['batch_size']} picture of {size}, torch {machine['torch']}, {machine['date']}"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _bars(axes, rows: list[dict]) -> None:
    named: set[str] = set()
    for y, row in enumerate(rows):
        for values, height, at, alpha in (("ms", 0.45, y - 0.12, 1.0), ("limit_ms", 0.22, y + 0.25, 0.55)):
            left = 0.0
            for name in in_order(row["parts"]):
                width = row["parts"][name][values]
                if width <= 0 or (values == "limit_ms" and row["mode"] == "peer"):
                    continue
                word = label(name, row["parts"])
                colour = GROUPS.get(name, "#d9d9d9")
                legend = word if word not in named and values == "ms" else None
                named.add(word)
                axes.barh(
                    at, width, height, left, color=colour, alpha=alpha, label=legend, edgecolor="white", linewidth=0.4
                )
                left += width
        if row["mode"] == "peer":
            axes.barh(y + 0.25, row["limit_ms"], 0.22, color="#8a8a8a", alpha=0.55)
        taken = row.get("graph_ms", row["ms"])
        words = f" {taken:.0f} ms, {row['share']:.0%} of the limit"
        axes.text(max(row["ms"], row["limit_ms"]), y - 0.12, words, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{row['case']}\n{row['mode']}, {row['dtype']}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("milliseconds: thick what it took, thin what this device's copy and product would allow")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    words = [word for word in dict.fromkeys(REMAINS.get(name, name) for name in ORDER) if word in handles]
    words += [word for word in handles if word not in words]
    shown = [handles[word] for word in words]
    axes.legend(shown, words, ncols=9, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.07), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _speed(axes, result: dict) -> None:
    for y, row in enumerate(result["rows"]):
        axes.barh(y - 0.12, row["share"] * 100, 0.45, color="#1b5e8c")
        axes.text(row["share"] * 100, y - 0.12, f" {row['images_per_second']:.2f} img/s", va="center", fontsize=8)
        paper = result.get("paper", {}).get(row["case"])
        if paper:
            axes.barh(y + 0.25, paper["share"] * 100, 0.22, color="#c8564b")
            axes.text(paper["share"] * 100, y + 0.25, f" paper: {paper['fps']:g} fps", va="center", fontsize=7)
    axes.set_xlim(0, 125)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("% of the limit: blue here, red the paper's on its TITAN Xp")
    axes.axvline(100, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
