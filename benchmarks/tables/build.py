"""What building costs, and what a wheel spares."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, paragraphs, table


def build(suites: tuple[str, ...]) -> str:
    """Seconds of the source build by part, then from a wheel to the first prediction."""
    return blocks(suites, lambda results: build_of(results["build"]))


def build_of(result: dict) -> str:
    built = [row for row in result["rows"] if "seconds of jobs" in row]
    wheels = [row for row in result["rows"] if "MB" in row]
    tables = []
    if built:
        parts = list(built[0]["seconds of jobs"])
        rows = [
            [
                row["case"],
                targets(row["architectures"]),
                *(f"{row['seconds of jobs'][part]:.0f}" if row["seconds of jobs"][part] else "–" for part in parts),
                *(f"{row[key]:.0f}" for key in ("s of CPU", "s by the clock")),
            ]
            for row in built
        ]
        head = ["build from the sources, s", "CUDA for", *parts, "CPU time of all", f"clock, {built[0]['jobs']} jobs"]
        tables.append(table(head, rows, words=2))
    if wheels:
        keys = "s of pip install", "s of the first prediction"
        rows = [[row["case"], f"{row['MB']:.1f}", *(f"{row[key]:.1f}" for key in keys)] for row in wheels]
        tables.append(table(["beside an installed torch", "MB", *keys], rows))
    return paragraphs(*tables, caption(result))


def targets(architectures: list[str]) -> str:
    """CMake's words ("80-real", "90-virtual") as they are known: sm_80, PTX."""
    cards = [f"sm_{name.removesuffix('-real')}" for name in architectures if not name.endswith("-virtual")]
    return ", ".join([*cards, *["PTX"] * any("-real" not in name for name in architectures)]) or "–"
