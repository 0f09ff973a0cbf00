"""Tiles of the matrix kernels as scripts/gpu_tune.py measured them, beside cuDNN and cuBLAS."""

import json

from benchmarks import stored
from benchmarks.tables.machines import UNMEASURED
from benchmarks.tables.markdown import caption, paragraphs, table


def tuned(suites: tuple[str, ...]) -> str:
    """Of each problem the fastest tile, for every device that was measured."""
    found = [json.loads(path.read_text()) for path in sorted(stored.RESULTS.glob(f"*/{suites[0]}.json"))]
    if not found:
        return f"{UNMEASURED.capitalize()}."
    devices = [{row["problem"]: row for row in one["rows"]} for one in found]
    lines = []
    for problem in dict.fromkeys(name for one in devices for name in one):
        cells = [cell for one in devices for cell in cells_of(one.get(problem))]
        lines.append([problem.replace(" tma", "").replace(" extra", " and a second map"), *cells])
    names = [one["machine"]["device"] for one in found]
    heads = [head for name in names for head in (f"{name}: our best tile, µs", "which", "cuDNN, cuBLAS, µs")]
    return paragraphs(table(["", *heads], lines), *map(caption, found))


def cells_of(row: dict | None) -> list[str]:
    if row is None:
        return ["–", "–", "–"]
    tile = min(row["tiles us"], key=row["tiles us"].__getitem__)
    library = row["library us"]
    return [f"{row['tiles us'][tile]:.1f}", tile, "–" if library is None else f"{library:.1f}"]
