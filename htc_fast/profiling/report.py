"""A profile as text: what was reached beside what could be, model by model and part by part."""

from typing import Any

from tabulate import tabulate

from htc_fast.profiling.legend import in_order, label, short


def text(result: dict) -> str:
    """The whole report.

    result  as `profile.json` holds it
    """
    blocks = [header(result), summary(result), *(parts_table(result, case) for case in _cases(result))]
    blocks += [f"{who}: absent, {reason}" for who, reason in result.get("absent", {}).items()]
    return "\n\n".join(blocks)


def header(result: dict) -> str:
    """Machine, limits and setting in a few lines."""
    machine, setting = result["machine"], result["setting"]
    limits = ", ".join(f"{rate:g} {name}" for name, rate in result["limits"].items())
    size = "x".join(map(str, setting["size"]))
    lines = [f"{machine['device']}, torch {machine['torch']}; measured limits: {limits}"]
    lines += [f"{setting['batch_size']} x {size}, median of {setting['rounds']} rounds", *setting["changed"]]
    return "\n".join(lines)


def summary(result: dict) -> str:
    """One line per model, mode and dtype."""
    head = ["", "", "", "img/s", "ms", "± ms", "GFLOP", "limit ms", "reached", "paper fps", "reached"]
    rows = []
    for row in result["rows"]:
        paper = result.get("paper", {}).get(row["case"])
        published = [f"{paper['fps']:g}", f"{paper['share']:.0%}"] if paper else ["", ""]
        own = [f"{row['images_per_second']:.2f}", _number(row.get("graph_ms", row["ms"])), _number(row["spread_ms"])]
        own += [f"{row['gflop']:.0f}", _number(row["limit_ms"]), f"{row['share']:.0%}"]
        rows.append([row["case"], row["mode"], row["dtype"], *own, *published])
    memory = [
        f"{row['case']}, {row['dtype']}: peak memory {row['memory_mb']:.0f} MB"
        for row in result["rows"]
        if "memory_mb" in row
    ]
    return "\n".join([_table(3, head, rows), *memory])


def parts_table(result: dict, case: str) -> str:
    """All parts of a model, its runs side by side: ms and share of the limit reached."""
    runs = [row for row in result["rows"] if row["case"] == case]
    head = [case, "GFLOP", "MB"]
    head += [word for row in runs for word in (f"{row['mode']} {short(row['dtype'])}", "limit", "")]
    names = in_order({name: None for row in runs for name in row["parts"]})
    rows = []
    for name in names:
        first = runs[0]["parts"].get(name, {"gflop": 0.0, "mb": 0.0})
        cells = [label(name, runs[0]["parts"]), f"{first['gflop']:.2f}", f"{first['mb']:.1f}"]
        for row in runs:
            one = row["parts"].get(name)
            cells += [_number(one["ms"]), _number(one["limit_ms"]), _share(one["share"])] if one else ["", "", ""]
        rows.append(cells)
    totals = ["total", f"{runs[0]['gflop']:.2f}", f"{runs[0]['mb']:.1f}"]
    totals += [cell for row in runs for cell in (_number(row["ms"]), _number(row["limit_ms"]), _share(row["share"]))]
    return _table(1, head, [*rows, totals])


def next_bottlenecks(row: dict, count: int = 3) -> list[str]:
    """Where most time above the limit is, in words."""
    parts = row["parts"]
    lost = sorted(parts, key=lambda name: parts[name]["limit_ms"] - parts[name]["ms"])[:count]
    return [f"{label(name, parts)} {_number(parts[name]['ms'] - parts[name]['limit_ms'])} ms" for name in lost]


def bottlenecks(result: dict) -> str:
    """One sentence per run: what to work on next."""
    lines = ["most time above the limit:"]
    for row in result["rows"]:
        if row["mode"] != "peer":
            lines.append(f"  {row['case']}, {row['mode']}, {row['dtype']}: {', '.join(next_bottlenecks(row))}")
    return "\n".join(lines)


def _cases(result: dict) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in result["rows"] if row["mode"] != "peer"))


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _table(words: int, head: list[str], rows: list[list[str]]) -> str:
    """So many columns of words, then numbers."""
    sides = ["left"] * words + ["right"] * (len(head) - words)
    return tabulate([head, *rows], tablefmt="plain", disable_numparse=True, colalign=sides)


def rounded(value: Any) -> Any:
    """Five digits are more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value
