"""What became slower than the stored run of the same device."""

from pathlib import Path

from benchmarks import stored

TOLERANCE = 1.25


def than(before: dict, rows: list[dict]) -> list[str]:
    """One sentence for each case whose median grew by more than a quarter and the spread; nothing for new cases."""
    old = {(row["case"], row["dtype"]): row["milliseconds"].get("htc_fast") for row in before["rows"]}
    found = []
    for row in rows:
        was, now = old.get((row["case"], row["dtype"])), row["milliseconds"].get("htc_fast")
        if was and now and stored.fastest(now) > TOLERANCE * stored.fastest(was) + was["spread"]:
            found.append(f"{row['case']} ({row['dtype']}): {stored.fastest(now):g} ms, was {stored.fastest(was):g} ms")
    return found


def report(folder: Path, rows: list[tuple[str, dict, dict]]) -> list[str]:
    """(suite, row, limits) beside what is stored in a device's folder, as lines; those of slower cases say so."""
    lines, compared = [], 0
    for suite in sorted({suite for suite, _, _ in rows}):
        before = stored.load(folder / f"{suite}.json")
        own = [row for name, row, _ in rows if name == suite]
        limits = next(limits for name, _, limits in rows if name == suite)
        if not before["rows"]:
            lines.append(f"nothing stored to compare with: benchmarks/results/{folder.name}/{suite}.json")
            continue
        known = {(row["case"], row["dtype"]) for row in before["rows"]}
        compared += sum((row["case"], row["dtype"]) in known for row in own)
        lines += [f"slower than stored: {suite}, {sentence}" for sentence in than(before, own)]
        lines += _machine(before.get("limits", {}), limits)
    count = sum(line.startswith("slower") for line in lines)
    return [*dict.fromkeys(lines), f"{compared} cases compared with benchmarks/results/{folder.name}: {count} slower"]


def _machine(before: dict[str, float], now: dict[str, float]) -> list[str]:
    """Whether it is the machine that became slower."""
    shares = {name: now[name] / rate for name, rate in before.items() if rate and now.get(name)}
    return [
        f"the machine itself reaches {share:.0%} of the stored {name}"
        for name, share in shares.items()
        if share < 1 / TOLERANCE
    ]
