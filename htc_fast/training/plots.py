"""A run's curves as a picture."""

from pathlib import Path

import numpy as np

from htc_fast.training.metrics import SHOWN, read_rows


def draw_curves(losses: Path, evaluations: Path, out: Path) -> None:
    """Losses by term on the left, AP on the right, both over iterations, as PNG."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    # Three stages make twelve terms, two more than the usual colours.
    left.set_prop_cycle(color=colormaps["tab20"](range(20)))
    rows = read_rows(losses)
    iterations = [row["iteration"] for row in rows]
    for name in rows[0] if rows else []:
        if name == "loss" or name == "semantic" or name.startswith(("rpn_", "stage")):
            values = smooth([row[name] for row in rows])
            left.plot(iterations, values, label=name, linewidth=2 if name == "loss" else 1)
    left.set(xlabel="iteration", ylabel="loss (smoothed)", yscale="log")
    if rows:
        left.legend(fontsize=7, ncols=2)
    rows = read_rows(evaluations)
    for name in rows[0] if rows else []:
        if name in SHOWN:
            right.plot([row["iteration"] for row in rows], [row[name] for row in rows], "o-", label=name)
    right.set(xlabel="iteration", ylabel="AP on the validation images", ylim=(0, 1))
    if rows:
        right.legend(fontsize=7)
    figure.savefig(out, dpi=110)


def smooth(values: list[float], share: float = 0.05) -> np.ndarray:
    """Centred moving average over a share of the run."""
    width = max(1, int(len(values) * share)) | 1
    padded = np.pad(np.asarray(values, dtype=float), width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")
