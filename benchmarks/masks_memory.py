"""Peak memory of whole post-processing, ours and each package's own, each in a process of its own.

    python -m benchmarks.masks_memory     results in benchmarks/results/<device>/masks_memory.json

The most memory the process ever held beyond what it held with the network's output ready.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import rivals, stored
from benchmarks.bench_masks_pipelines import THEIRS, USUAL, WORDS, ours, outputs
from benchmarks.buckets import held, most
from htc_fast.commands import entry
from htc_fast.commands.options import Parser


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(peak(*options.one))
        return
    device, rows = torch.device("cpu"), []
    for name, count, image in USUAL:
        package = THEIRS[name][1]
        found = {who: apart(name, who) for who in ("htc_fast", package)}
        rows.append({"case": f"{WORDS[name]}: {count} masks at {image[0]}×{image[1]}", "MB": found})
        print(rows[-1], flush=True)
    path = stored.folder(device, options.out) / "masks_memory.json"
    stored.write(path, device, {"what": "beyond the outputs, resident memory at most", "rows": rows})


def apart(*words: str) -> int | str:
    """MB, in a process of its own; or why there are none."""
    command = [sys.executable, "-m", "benchmarks.masks_memory", "--one", *words]
    last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[-2]
    return round(float(last)) if last.replace(".", "").isdigit() else last


def peak(name: str, who: str) -> float | str:
    """MB."""
    count, image = next((count, image) for one, count, image in USUAL if one == name)
    given = outputs(name, count, image)
    call = ours(name, given, image) if who == "htc_fast" else THEIRS[name][0](given, image)
    if isinstance(call, rivals.Absent):
        return str(call)
    before = held()
    # The peak so far is that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return max(most() - before, 0.0)


if __name__ == "__main__":
    entry.run(main)
