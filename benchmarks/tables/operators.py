"""Operators and detectors beside their rivals: every usual case, one line of each, and the summary."""

from benchmarks.stored import fastest
from benchmarks.tables import runs
from benchmarks.tables.machines import UNMEASURED, blocks, chosen, device, gpu, on_gpu
from benchmarks.tables.markdown import caption, captions, milliseconds, paragraphs, table, times
from htc_fast.profiling.legend import short

REPLAYED = "On the device, in a replayed CUDA graph; with * of calls from Python, where one of both has no graph."


def operators(suites: tuple[str, ...]) -> str:
    """Case, ours, share of the limit, rivals; which operator it is where a table holds several."""
    return blocks(suites, lambda results: operators_of(results, len(suites) > 1))


def operators_of(results: dict[str, dict], named: bool) -> str:
    rows = usual(results)
    lines = []
    for suite, row in rows:
        ours = row["milliseconds"]["htc_fast"]
        case = (f"{suite}: " if named else "") + words(row)
        speed = next((f"{row[unit]:.3g} {unit}" for unit in ("TFLOP/s", "GB/s") if unit in row), "")
        share = f"{row['share of limit']:.0%}" if "share of limit" in row else ""
        others = "; ".join(beside(row, who) for who in row["ratio"])
        time = [milliseconds(fastest(ours)), milliseconds(ours["spread"])]
        lines.append([case, *time, speed or "–", share or "–", others or "–"])
    head = ["", "htc_fast, ms", "±", "rate", "of limit", "others, ms (times ours)"]
    note = REPLAYED if on_gpu(device(results)) else ""
    return paragraphs(table(head, lines), note, absent(rows), captions(results))


def usual(results: dict[str, dict]) -> list[tuple[str, dict]]:
    """(suite, row) of what is not for --full alone."""
    return [(suite, row) for suite, result in results.items() for row in result["rows"] if not row["full"]]


def words(row: dict) -> str:
    return row["case"] + ("" if row["dtype"] == "float32" else f", {row['dtype']}")


def beside(row: dict, who: str) -> str:
    """torchvision 535 (24.7×)"""
    ours, other = row["milliseconds"]["htc_fast"], row["milliseconds"][who]
    called = "*" * ("graph" in ours and "graph" not in other)
    return f"{who} {milliseconds(fastest(other))} ({times(row['ratio'][who])}{called})"


def absent(rows: list[tuple[str, dict]]) -> str:
    """Who could not be measured, and why."""
    reasons = {f"{who} ({why})": None for _, row in rows for who, why in row["absent"].items()}
    return f"Absent: {', '.join(reasons)}." if reasons else ""


def rivals(row: dict) -> dict[str, float]:
    """Who else did it -> milliseconds; not ours on other backends."""
    others = {who: one for who, one in row["milliseconds"].items() if not who.startswith(("htc_fast", "our "))}
    return {who: fastest(one) for who, one in others.items()}


def first(rows: list[dict]) -> dict:
    """The first case that somebody else did too; else the first one. Of detectors, one that is optimized."""
    rows = [row for row in rows if "optimized" in row["case"]] or rows
    return next(filter(rivals, rows), rows[0])


def summary(suites: tuple[str, ...]) -> str:
    """One line of each suite, CPU and GPU side by side: ours, and how much longer the best of the others takes."""
    found = chosen(suites)
    if not found:
        return f"{UNMEASURED.capitalize()}."
    lines = []
    for suite in suites:
        rows = [usual({suite: results[suite]}) if suite in results else [] for results in found]
        if not any(rows):
            continue
        shown = [first([row for _, row in some]) if some else None for some in rows]
        case = next(row["case"] for row in shown if row is not None)
        shown[1:] = [same([row for _, row in some], case) or row for some, row in zip(rows[1:], shown[1:])]
        name = case if case.startswith(suite) else f"`{suite}`: {case}"
        lines.append([name, *(summarised(row, case) for row in shown)])
    heads = [f"{device(results)}, ms" for results in found]
    text = f"{table(['', *heads], lines)}\n\n{'; '.join(map(versions, found))}"
    return f"{text}\n\n{gpu(suites) if UNMEASURED in gpu(suites) else runs.speed(('kernels',))}"


def same(rows: list[dict], case: str) -> dict | None:
    """Of what was measured of this case the fastest, which is a type; beside rivals if there are any. None: nothing."""
    found = [row for row in rows if row["case"] == case]
    usual = [row for row in found if rivals(row)] or found
    return min(usual, key=lambda row: fastest(row["milliseconds"]["htc_fast"]), default=None)


def summarised(row: dict | None, case: str) -> str:
    """18; torchvision 20.1×: of a picture, where a call works on several."""
    if row is None:
        return "–"
    others = rivals(row)
    who = min(others, key=others.__getitem__, default=None)
    text = milliseconds(fastest(row["milliseconds"]["htc_fast"]) / row.get("pictures", 1))
    text += f"; {who} {times(row['ratio'][who])}" if who else ""
    about = [part for part in (row["case"] if row["case"] != case else "", short(row["dtype"])) if part]
    return text if about == ["fp32"] else f"{text} ({', '.join(about)})"


def versions(results: dict[str, dict]) -> str:
    machine = next(iter(results.values()))["machine"]
    named = [f"{name} {machine[name]}" for name in ("torch", "torchvision", "driver") if name in machine]
    return f"{machine['device']}: {', '.join(named)}"


def line(suites: tuple[str, ...]) -> str:
    """An operator's first case: On <device>: forward, 1000 RoIs to 7×7 in 22 ms; torchvision 535 ms (24.7×)."""
    lines = []
    for results in chosen(suites):
        rows = [row for _, row in usual(results)]
        if not rows:
            continue
        row = first(rows)
        ours = milliseconds(fastest(row["milliseconds"]["htc_fast"]))
        others = [f"; {who} {milliseconds(time)} ms ({times(row['ratio'][who])})" for who, time in rivals(row).items()]
        lines.append(f"On {device(results)}: {words(row)} in {ours} ms{''.join(others)}.")
    return "\n\n".join(lines) or f"{UNMEASURED.capitalize()}."


def models(suites: tuple[str, ...]) -> str:
    """Seconds per picture, one row per network and mode."""
    return blocks(suites, models_of)


def models_of(results: dict[str, dict]) -> str:
    rows = usual(results)
    cells: dict[str, dict[str, str]] = {}
    for _, row in rows:
        for who, one in row["milliseconds"].items():
            name = row["case"] if who == "htc_fast" else f"{who}, beside {row['case'].split(',')[0]}"
            share = row.get("share of limit") if who == "htc_fast" else None
            time = f"{one['median'] / 1e3 / row.get('pictures', 1):.3g}" + (f" ({share:.0%})" if share else "")
            cells.setdefault(name, {})[row["dtype"]] = time
    dtypes = [dtype for dtype in ("float32", "bfloat16", "float16") if any(dtype in found for found in cells.values())]
    lines = [[name, *(found.get(dtype, "–") for dtype in dtypes)] for name, found in cells.items()]
    head = ["800×1333, seconds of a picture", *(f"{short(dtype)} (of limit)" for dtype in dtypes)]
    return paragraphs(table(head, lines), absent(rows), captions(results))


def masks_memory(suites: tuple[str, ...]) -> str:
    """Peak memory of whole post-processing, ours and each package's own."""
    return blocks(suites, lambda results: masks_memory_of(results["masks_memory"]))


def masks_memory_of(result: dict) -> str:
    lines = [[row["case"], *(f"{who} {_megabytes(one)}" for who, one in row["MB"].items())] for row in result["rows"]]
    return paragraphs(table(["", "ours", "theirs"], lines), f"{result['what'].capitalize()}.", caption(result))


def _megabytes(one: int | str) -> str:
    return f"absent: {one}" if isinstance(one, str) else f"{one:,} MB".replace(",", " ")
