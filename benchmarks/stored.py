"""Rows of measurements as JSON, one file per device and suite; how long they took is how long they will take.

{"machine": device, date, versions; "limits": what the device can do; "rows": [
    {"case", "device", "dtype", "backend", "date", "test", "seconds": that the test took,
     "milliseconds": {who: {"median", "spread": of the middle half; on a GPU "cold L2" and "graph"}}, ours first,
     "ratio": {who: times ours}, "absent": {who: why},
     "GB/s", "TFLOP/s", "share of limit", "images/s", "peak MB": where they mean something,
     "pictures": in one call, if not one, "full": whether only --full runs it}]}
"""

import json
from pathlib import Path

import torch

from htc_fast.commands.output import check_writable
from htc_fast.profiling.limits import Limits, device_name, machine

RESULTS = Path(__file__).resolve().parent / "results"
UNKNOWN = 5.0  # seconds of a case that was never run here


def folder(device: torch.device, asked: Path | None = None) -> Path:
    """Where a device's results go, seen to be writable.

    raises  UserError if it is not
    """
    found = asked or RESULTS / device_name(device)
    check_writable(found)
    return found


def load(path: Path) -> dict:
    """A stored suite; one without rows if there is none."""
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def write(path: Path, device: torch.device, content: dict) -> dict:
    """Store a suite's content behind the machine it was measured on.

    returns  what is stored
    """
    result = {"machine": machine(device), **content}
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def save(folder: Path, rows: list[tuple[str, dict, dict]], device: torch.device) -> str:
    """Merge (suite, row, limits) into the stored ones.

    returns  what is to be said about it
    """
    now = machine(device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suite in sorted({suite for suite, _, _ in rows}):
            own = [row for name, row, _ in rows if name == suite]
            path = folder / f"{suite}.json"
            write(path, device, {"limits": rows[-1][2], "rows": merged(load(path), own, now)})
    except OSError as error:
        return f"cannot write to {folder} ({error.strerror}): nothing was stored."
    return f"results in benchmarks/results/{folder.name}: `make bench-tables` puts them into README.md and docs"


def merged(before: dict, rows: list[dict], now: dict[str, str], key: tuple[str, ...] = ("case", "dtype")) -> list[dict]:
    """Old rows stay where new ones do not replace them, but only those of the same versions: a file is one set.

    key  what makes a row another one
    """

    def versions(about: dict[str, str]) -> dict[str, str]:
        # What follows our own "+" says which kernels were built, as in "0.1.0+cpu".
        own = about.get("htc_fast", "").partition("+")[0]
        return {name: value for name, value in about.items() if name != "date"} | {"htc_fast": own}

    kept = before["rows"] if versions(before.get("machine", {})) == versions(now) else []
    return list({tuple(row[name] for name in key): row for row in [*kept, *rows]}.values())


def add(path: Path, device: torch.device, rows: list[dict], key: tuple[str, ...]) -> None:
    """Put rows into a suite that has no limits, as `merged` does."""
    write(path, device, {"rows": merged(load(path), rows, machine(device), key)})


def seconds(folder: Path) -> dict[str, float]:
    """How long each test took the last time."""
    rows = [row for path in sorted(folder.glob("*.json")) for row in load(path).get("rows", [])]
    return {row["test"]: row["seconds"] for row in rows if "test" in row}


def estimate(known: dict[str, float], tests: list[str], tiny: bool = False) -> str:
    """How long the tests will take, in a sentence."""
    if tiny:
        return "one small case of each: seconds; nothing is stored"
    new = [test for test in tests if test not in known]
    total = sum(known.get(test, UNKNOWN) for test in tests) + 10
    words = f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} seconds"
    return f"this takes about {words}: {len(tests) - len(new)} cases as the last time here, {len(new)} guessed"


def fastest(entry: dict[str, float]) -> float:
    """Milliseconds on the device alone where a graph was timed, of a call otherwise."""
    return entry.get("graph", entry["median"])


def rates(entry: dict, limits: Limits, dtype: str, gigabytes: float | None, gflop: float | None) -> dict:
    """What was moved and computed per second, and the share of what this device can do.

    returns  "GB/s", "TFLOP/s", "share of limit" (of the slower: the copy or the product); what is unknown is left out
    """
    taken, least, found = fastest(entry) / 1e3, 0.0, {}
    if gigabytes:
        found["GB/s"] = _digits(gigabytes / taken)
        least = gigabytes * 1e9 / limits.bandwidth
    if gflop:
        found["TFLOP/s"] = _digits(gflop / taken / 1e3)
        product = limits.products.get(dtype)  # None where the processor lacks the type
        least = max(least, gflop * 1e9 / product) if product else 0.0
    return found | ({"share of limit": round(least / taken, 3)} if least else {})


def ratios(milliseconds: dict[str, dict]) -> dict[str, float]:
    """How many times longer everyone else takes: graphs beside graphs, calls beside calls."""
    (_, ours), *others = milliseconds.items()
    kinds = {who: "graph" if "graph" in entry and "graph" in ours else "median" for who, entry in others}
    return {who: round(entry[kinds[who]] / ours[kinds[who]], 2) for who, entry in others}


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
