"""Peak memory of the optimized detector per input shape, each in a process of its own.

    python -m benchmarks.buckets [--device cpu]     results in benchmarks/results/<device>/buckets.json

On a CPU: the most memory the process ever held beyond what it held with the model ready. On a GPU: the most that torch
reserved in all, weights and graph included.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

import htc_fast
from benchmarks import stored
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.device import find_device

SHAPES = ((1, 256, 320), (1, 480, 640), (1, 800, 1088), (1, 800, 1344), (1, 1344, 800), (2, 800, 1344))
TYPES = ("float32", "bfloat16")
WHAT = {"cpu": "beyond the model itself, resident memory at most", "cuda": "reserved by torch at most, in all"}


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = find_device(options.device)
    if options.one:
        print(peak(device, *map(int, options.one[:3]), options.one[3]))
        return
    path, rows = stored.folder(device, options.out) / "buckets.json", []
    for shape in SHAPES:
        found = {dtype: apart(device, *map(str, shape), dtype) for dtype in TYPES}
        rows.append({**dict(zip(("batch", "height", "width"), shape)), "MB": found})
        print(rows[-1], flush=True)
    stored.write(path, device, {"what": WHAT[device.type], "rows": rows})


def apart(device: torch.device, *words: str) -> int:
    """MB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.buckets", "--device", str(device), "--one", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]))


def peak(device: torch.device, count: int, height: int, width: int, dtype: str) -> float:
    """MB."""
    torch.manual_seed(0)
    model = htc_fast.create_model("htc_r50").eval().to(device)
    fast = htc_fast.optimize(model, (height, width), count, getattr(torch, dtype))
    del model
    images, sizes = torch.zeros(count, 3, height, width), torch.tensor([[height, width]] * count)
    before = held()
    # The peak so far is that of building the model.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        fast.detect(images.to(device), sizes.to(device))
    return torch.cuda.max_memory_reserved() / 1e6 if device.type == "cuda" else most() - before


def held() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def most() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    entry.run(main)
