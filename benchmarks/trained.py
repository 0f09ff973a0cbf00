"""What a training run reached: `python -m htc_fast.train`, its length, its speed and its scores, stored.

    python -m benchmarks.trained NAME [--no-store] -- [options of htc_fast.train]

NAME is what the tables call the run. A run under the same name takes the place of the one before in `trained.json`.
"""

import argparse
import itertools
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import stored
from htc_fast.commands import entry
from htc_fast.device import find_device
from htc_fast.errors import UserError, short
from htc_fast.training.metrics import EVALUATIONS, LOSSES, read_rows

SCORES = ("mask_AP", "mask_AP50", "mask_AP75", "box_AP")


def trained(name: str, options: list[str], folder: Path) -> dict:
    """One run as a row.

    raises  SystemExit with the run's own exit status if it failed; UserError if it names a folder, which it has already
    """
    if any(part == "--out" or part.startswith("--out=") for part in options):
        raise UserError("--out is not to be given: what is stored here is all that is left of the run.")
    began = time.monotonic()
    status = subprocess.call([sys.executable, "-m", "htc_fast.train", *options, "--out", str(folder)])
    if status:
        raise SystemExit(status)
    return described(name, options, folder, time.monotonic() - began)


def described(name: str, options: list[str], folder: Path, seconds: float) -> dict:
    """A run that has ended: pictures per second are those of its second half, when all is warm."""
    losses, evaluations = read_rows(folder / LOSSES), read_rows(folder / EVALUATIONS)
    if not losses:
        raise UserError(f"{name} ended before its tenth step, so there is no speed to be told: give it longer.")
    late = sorted(row["images_per_second"] for row in losses[len(losses) // 2 :])
    row = {
        "case": name,
        "options": shlex.join(Path(part).name if Path(part).exists() else part for part in options),
        "iterations": int(losses[-1]["iteration"]),
        "seconds": round(seconds, 1),
        "images/s": round(late[len(late) // 2], 2),
        "peak MB": round(losses[-1]["memory_mb"]),
    }
    scores = evaluations[-1] if evaluations else {}  # a limit of time may leave none
    return row | {one: round(scores[one], 4) for one in SCORES if one in scores}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--no-store", action="store_true")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    asked = parser.parse_args(words[:end])
    if "|" in asked.name or not asked.name.strip():
        raise UserError(f"{short(asked.name)} cannot stand in a table: give the run a name without |.")
    with tempfile.TemporaryDirectory() as folder:
        row = trained(asked.name, words[end + 1 :], Path(folder))
    print(row)
    if not asked.no_store:
        named = next((after for before, after in itertools.pairwise(words[end:]) if before == "--device"), None)
        device = find_device(named)
        stored.add(stored.folder(device) / "trained.json", device, [row], ("case",))
    return 0


if __name__ == "__main__":
    entry.run(main)
