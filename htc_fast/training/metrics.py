"""A run's metrics as CSV files: a header of names, then one row of numbers per report, "iteration" first."""

import csv
import io
from pathlib import Path

from htc_fast.training.checkpoint import write_whole

LOSSES = "losses.csv"
EVALUATIONS = "evaluations.csv"
# What the progress line and the curves show of an evaluation.
SHOWN = ("box_AP", "box_AP50", "mask_AP", "mask_AP50", "mask_AP75")


def read_rows(path: Path) -> list[dict[str, float]]:
    """A metrics file as numbers; empty if there is none."""
    header, rows = _read(path)
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def append_row(path: Path, iteration: int, numbers: dict[str, float]) -> None:
    """Add a row; a new file begins with the names."""
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["iteration", *numbers])
        writer.writerow([iteration, *(f"{value:.6g}" for value in numbers.values())])


def drop_rows_after(path: Path, iteration: int) -> None:
    """Take out what a killed run wrote beyond the checkpoint that it continues from; the file is never half there."""
    if path.exists():
        header, rows = _read(path)
        text = io.StringIO(newline="")
        csv.writer(text).writerows([header, *(row for row in rows if int(row[0]) <= iteration)])
        write_whole(path, text.getvalue().encode())


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names and whole rows: a full disk or a power cut may leave half a row."""
    if not path.exists():
        return [], []
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, [row for row in rows if len(row) == len(header)]
