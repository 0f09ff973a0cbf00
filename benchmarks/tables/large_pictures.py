"""Large pictures: reading, predicting by tiles, and AP."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, paragraphs, table


def large_pictures(suites: tuple[str, ...]) -> str:
    """Seconds and memory of large pictures, and what tiles are worth."""
    return blocks(suites, lambda results: large_pictures_of(results["large_pictures"]))


def large_pictures_of(result: dict) -> str:
    """A table for each part that was measured."""
    reading, predicting, scored = (
        [row for row in result["rows"] if row["part"] == part] for part in ("reading", "predicting", "ap")
    )
    made = []
    if reading:
        lines = [[named(row), f"{row['s']:.1f}", f"{row['MB']}"] for row in reading]
        made.append(table(["reading", "s", "MB above the imports"], lines))
    if predicting:
        keys = "s", "core s", "MB", "instances"
        lines = [[named(row), *(f"{row[key]:.0f}" for key in keys)] for row in predicting]
        made.append(
            table([f"`predict --tile {predicting[0]['tile']}`", "s", "s of a core", "peak MB", *keys[3:]], lines)
        )
    if scored:
        lines = [[row["case"], *(f"{100 * row[key]:.1f}" for key in ("box_AP", "mask_AP"))] for row in scored]
        made.append(table([f"{scored[0]['pictures']} held-out pictures", "box AP", "mask AP"], lines))
    return paragraphs(*made, caption(result))


def named(row: dict) -> str:
    return f"{row['case']}: {row['side']} × {row['side']} pixels"
