"""Training and inference beside others, with threads by free cores and with fixed ones."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, milliseconds, paragraphs, table


def company(suites: tuple[str, ...]) -> str:
    """A line for each company: images per second of training and milliseconds of inference, and the share of alone."""
    return blocks(suites, lambda results: company_of(results[suites[0]]))


def company_of(result: dict) -> str:
    rows = {(row["beside"], row["work"], row["threads"]): row for row in result["rows"]}
    columns = list(dict.fromkeys((row["work"], row["threads"]) for row in result["rows"]))
    words = {"training": "images/s trained", "inference": "ms to detect"}
    lines = [
        [who, *(cell(rows[(who, *column)]) for column in columns)] for who in dict.fromkeys(who for who, *_ in rows)
    ]
    head = [f"beside; {result['cores']} cores", *(f"{words[what]}, threads {threads}" for what, threads in columns)]
    return paragraphs(table(head, lines), caption(result))


def cell(row: dict) -> str:
    speed = f"{row['images/s']:.1f}" if row["work"] == "training" else milliseconds(1e3 / row["images/s"])
    return f"{speed} ({row['of alone']:.0%})"
