"""Pictures of a run: its curves, and predictions beside the truth."""

from pathlib import Path

import numpy as np
from PIL import Image

from htc_fast.training.report import read_rows


def draw_curves(losses: Path, evaluations: Path, out: Path) -> None:
    """Losses by term on the left, AP on the right, both over iterations, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
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
        if name.endswith(("AP", "AP50", "AP75")):
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


def beside(rows: list[tuple[Image.Image, Image.Image]], out: Path, width: int = 480) -> None:
    """Write pairs of pictures as one PNG: predictions left, truth right."""
    scaled = [
        [picture.resize((width, max(1, round(picture.height * width / picture.width)))) for picture in pair]
        for pair in rows
    ]
    sheet = Image.new("RGB", (2 * width + 6, sum(pair[0].height + 6 for pair in scaled)), "white")
    top = 0
    for prediction, truth in scaled:
        sheet.paste(prediction, (0, top))
        sheet.paste(truth, (width + 6, top))
        top += prediction.height + 6
    sheet.save(out)
