"""Whose results a table shows: those of one CPU and one GPU."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import stored

UNMEASURED = "not measured"


def chosen(suites: tuple[str, ...]) -> list[dict[str, dict]]:
    """Suite -> results, of one CPU and then of one GPU: the device where one of the suites was measured last.

    A suite that this device lacks is not taken from another: a table is one machine's.
    """
    devices: dict[str, dict[str, dict]] = {}
    for suite in suites:
        for path in sorted(stored.RESULTS.glob(f"*/{suite}.json")):
            devices.setdefault(path.parent.name, {})[suite] = json.loads(path.read_text())

    def last(name: str) -> tuple:
        return max(one["machine"]["date"] for one in devices[name].values()), len(devices[name]), name

    kinds = [name for name in devices if not on_gpu(name)], [name for name in devices if on_gpu(name)]
    return [devices[max(names, key=last)] for names in kinds if names]


def newest(suites: tuple[str, ...]) -> Path:
    """The folder of the first device whose results a table shows."""
    return stored.RESULTS / device(chosen(suites)[0])


def device(results: dict[str, dict]) -> str:
    return next(iter(results.values()))["machine"]["device"]


def on_gpu(device: str) -> bool:
    return device.startswith("nvidia")


def blocks(suites: tuple[str, ...], make: Callable[[dict[str, dict]], str]) -> str:
    """make(results) for each device.

    make  suite -> results of one device -> text
    """
    return "\n\n".join(map(make, chosen(suites))) or f"{UNMEASURED.capitalize()}."


def gpu(suites: tuple[str, ...]) -> str:
    """Which GPU was measured, and when; or that none was."""
    for results in chosen(suites):
        if on_gpu(device(results)):
            last = max(one["machine"]["date"] for one in results.values())
            return f"On a GPU: {device(results)}, {last}."
    return f"On a GPU: {UNMEASURED}."
