"""One processor used as others: each part beside its limit and its best rival, class by class, and a training step."""

from benchmarks.tables.deploy import WORDS, grouped
from benchmarks.tables.machines import blocks
from benchmarks.tables.markdown import caption, milliseconds, paragraphs, table
from htc_fast.profiling.legend import in_order, label, short

OURS = "eager", "optimized"
WHOLE = "whole"


def processors(suites: tuple[str, ...]) -> str:
    """Per class and type the parts of inference, then those of a training step of all classes."""
    return blocks(suites, lambda results: processors_of(results[suites[0]]))


def processors_of(result: dict) -> str:
    tables = [table_of(result, one, dtype) for one in result["classes"] for dtype in types(one)]
    failed = dict.fromkeys(
        f"{who(row)} as {one['class']}: {row['failed']}"
        for one in result["classes"] for row in one["rows"] if "failed" in row
    )  # fmt: skip
    used = ", ".join(f"{name} {version}" for name, version in result["packages"].items() if version)
    limits = [f"{one['class']}: {rates(one['limits'])}" for one in result["classes"]]
    turns = f"The rows of a class took turns, {result['rounds']} rounds of them; each number is its fastest round's."
    measured = f"{turns} Measured limits: {'; '.join(limits)}."
    return paragraphs(*tables, training(result), measured, *failed, f"{caption(result)}, {used}")


def rates(limits: dict[str, float]) -> str:
    return ", ".join(f"{rate:g} {name}" for name, rate in limits.items())


def types(one: dict) -> list[str]:
    """Types that our optimised detector was measured in."""
    return [row["dtype"] for row in one["rows"] if row["runtime"] == "optimized"]


def who(row: dict) -> str:
    words = WORDS | {"compiled": "torch.compile", "optimized": "`optimize()`"}
    return f"{words.get(row['runtime'], row['runtime'])}, {short(row['dtype'])}"


def table_of(result: dict, one: dict, dtype: str) -> str:
    """Part by part in one type: ours, the fastest rival of that type, the limit and our share of it."""
    rows = [row for row in one["rows"] if row["dtype"] == dtype and "failed" not in row]
    ours = [row for row in rows if row["runtime"] in OURS]
    rivals = [row for row in rows if row["runtime"] not in OURS]
    limit = grouped({"parts": one["limit ms"].get(dtype, {})})
    fastest = next((parts_of(row) for row in ours if row["runtime"] == "optimized"), None)
    if fastest is None:
        return ""
    lines = []
    for name in in_order({name: 0 for name in (*fastest, *limit) if name != WHOLE}) + [WHOLE]:
        theirs = [(parts_of(row)[name], who(row).rpartition(",")[0]) for row in rivals if name in parts_of(row)]
        least = sum(limit.values()) if name == WHOLE else limit.get(name, 0.0)
        cells = [milliseconds(parts_of(row)[name]) if name in parts_of(row) else "–" for row in ours]
        cells.append(f"{milliseconds(min(theirs)[0])} ({min(theirs)[1]})" if theirs else "–")
        share = f"{least / fastest[name]:.0%}" if least and fastest.get(name) else "–"
        lines.append([name, *cells, milliseconds(least) if least else "–", share])
    size = "×".join(map(str, result["size"]))
    head = [f"{one['class']}, {short(dtype)}, {size}, ms", *(who(row).rpartition(",")[0] for row in ours)]
    return table([*head, "best rival", "limit", "`optimize()` of the limit"], lines)


def parts_of(row: dict) -> dict[str, float]:
    return {**grouped(row), WHOLE: row["milliseconds"]["median"]}


def training(result: dict) -> str:
    """A step of each class: milliseconds of its parts, and the share of the limit that each reaches."""
    steps = [one["train"] for one in result["classes"]]
    names = in_order({name: 0 for step in steps for name in step["parts"]})
    lines = [[label(name, steps[0]["parts"]), *(cell(step["parts"].get(name)) for step in steps)] for name in names]
    lines.append([WHOLE, *(f"{milliseconds(step['ms'])} ({step['share']:.0%})" for step in steps)])
    lines.append(["images/s", *(f"{step['images_per_second']:.2g}" for step in steps)])
    heads = [f"{one['class']}, {short(one['train']['dtype'])}" for one in result["classes"]]
    return table(["training step, ms (of the limit)", *heads], lines)


def cell(part: dict | None) -> str:
    if part is None or not part["ms"]:
        return "–"
    return f"{milliseconds(part['ms'])} ({part['share']:.0%})" if part["limit_ms"] else milliseconds(part["ms"])
