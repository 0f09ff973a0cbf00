"""How a table, a number and a caption are written."""

from tabulate import tabulate

VERSIONS = "torch", "torchvision", "cuda", "driver"


def table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """words: columns of words, which come first."""
    sides = ["left"] * words + ["right"] * (len(head) - words)
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=sides)


def milliseconds(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def caption(result: dict) -> str:
    """The machine, the days and the limits that were measured."""
    machine, limits = result["machine"], result.get("limits", {})
    words = "; measured limits: " + ", ".join(f"{rate:g} {name}" for name, rate in limits.items()) if limits else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS if name in machine)
    days = sorted({machine["date"], *(row["date"] for row in result.get("rows", []) if "date" in row)})
    return f"{machine['device']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}, {versions}{words}"


def captions(results: dict[str, dict]) -> str:
    """One line for all suites that one session measured."""
    return "\n\n".join(dict.fromkeys(caption(result) for result in results.values()))


def paragraphs(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))
