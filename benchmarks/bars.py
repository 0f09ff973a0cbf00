"""A detector's parts on a GPU as bars, each beside the least it could take."""

from pathlib import Path

from htc_fast.profiling.chart import digest


def parts(row: dict) -> dict[str, tuple[float, float]]:
    """Part -> microseconds of a picture and its limit, in the order in which the parts begin."""
    found: dict[str, tuple[float, float]] = {}
    for one in row["operators"]:
        if one["operator"] != "none":
            taken, least = found.get(one["part"], (0.0, 0.0))
            found[one["part"]] = taken + one["us"] / row["batch"], least + one["limit us"] / row["batch"]
    return found


def draw(result: dict, path: Path) -> Path:
    """Write the picture; it carries the digest of what it shows.

    result  as `kernels.json` holds it
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if "operators" in row]
    names = list(parts(rows[0]))
    figure, axes = pyplot.subplots(figsize=(11, 6), layout="constrained")
    for number, (row, colour) in enumerate(zip(rows, ("#1b5e8c", "#7fb2d6"))):
        found, rate = parts(row), row["batch"] * 1e3 / row["ms in a row"]
        places = [place + (number - 0.5) * 0.38 for place in range(len(names))]
        label = f"batches of {row['batch']}: {rate:.0f} images/s"
        axes.barh(places, [found[name][0] for name in names], 0.36, color=colour, label=label)
        limits = [found[name][1] for name in names]
        axes.plot(limits, places, "|", color="#c8564b", markersize=11, markeredgewidth=2.5,
                  label="at least, by operations and bytes" if number == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("µs of a picture")
    axes.grid(True, axis="x", alpha=0.2)
    axes.legend()
    about = result["machine"]
    axes.set_title(f"HTC R-50, 800×1344, bf16, optimized: {about['device']}, torch {about['torch']}, {about['date']}")
    figure.savefig(path, dpi=100, metadata={"Source": digest(result)})
    pyplot.close(figure)
    return path
