"""The sweeps as one picture, each curve with its exponent."""

from pathlib import Path

from htc_fast.profiling.chart import digest


def draw(result: dict, path: Path) -> Path:
    """Write the picture; it carries the digest of what it shows.

    result  as `sweep.json` holds it
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    figure, grid = pyplot.subplots(3, 3, figsize=(13, 10), layout="constrained")
    for axes, curve in zip(grid.flat, result["curves"]):
        sizes, times, k = curve["sizes"], curve["milliseconds"], curve["exponent"]
        axes.loglog(sizes, times, "o-", color="#1b5e8c")
        axes.loglog(sizes, [times[-1] * (size / sizes[-1]) ** k for size in sizes], "--", color="#c8564b", linewidth=1)
        axes.set_title(f"{curve['what']}\ntime ~ size^{k:.2f}", fontsize=9)
        axes.set_xlabel(curve["over"])
        axes.set_ylabel("ms")
        axes.set_xticks(sizes, [f"{size / 1000:g}k" if size >= 10_000 else str(size) for size in sizes], fontsize=8)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="both", alpha=0.2)
    about = result["machine"]
    figure.suptitle(f"{about['device']}, torch {about['torch']}, {about['date']}, fp32")
    figure.savefig(path, dpi=100, metadata={"Source": digest(result)})
    pyplot.close(figure)
    return path
