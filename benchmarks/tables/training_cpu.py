"""Training on a processor, now and before: images per second by class, and the parts of a step."""

from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, milliseconds, paragraphs, table
from htc_fast.profiling.legend import short

WHERE = "data", "backward", "optimizer", "rest"  # what else there is belongs to the forward pass
WORDS = {"sample": "the default run", "htc_r50": "htc_r50, 800×1333"}


def training_cpu(suites: tuple[str, ...]) -> str:
    """A line for each class, work and revision."""
    return blocks(suites, lambda results: training_cpu_of(results[suites[0]]))


def training_cpu_of(result: dict) -> str:
    before = {key(row): row for row in result["rows"] if row["when"] == "before"}
    lines = []
    for row in result["rows"]:
        mode = row["when"] if row["mode"] == "eager" else f"{row['when']}, `--compile`"
        spread = f"{milliseconds(row['ms'])} ({milliseconds(row['fastest ms'])} to {milliseconds(row['slowest ms'])})"
        first = before.get(key(row))
        times = f"{row['images/s'] / first['images/s']:.2f}×" if first and first is not row else "–"
        who = f"{WORDS[row['work']]}, {row['class']}, {short(row['dtype'])}, {mode}"
        data, backward, optimizer, _ = (row["parts ms"].get(name, 0.0) for name in WHERE)
        forward = sum(taken for name, taken in row["parts ms"].items() if name not in WHERE)
        parts = map(milliseconds, (data, forward, backward, optimizer))
        lines.append([who, f"{row['images/s']:.3g}", times, spread, *parts])
    head = ["training", "images/s", "of before", "ms (fastest to slowest)", "data", "forward", "backward", "optimizer"]
    revisions = ", ".join(f"{when}: {name}" for when, name in result["revisions"].items())
    return paragraphs(table(head, lines), ". ".join(filter(None, (revisions, caption(result)))))


def key(row: dict) -> tuple:
    return row["class"], row["work"]
