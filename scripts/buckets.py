"""Peak memory of the optimized detector per input shape, each in a process of its own.

python scripts/buckets.py [--device cpu]     results in benchmarks/results/<device>/buckets.json

On a CPU: the most memory the process ever held beyond what it held with the model ready. On a GPU: the most that torch
reserved in all, weights and graph included.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import htc_fast
from benchmarks.conftest import RESULTS, device_name, machine

SHAPES = ((1, 256, 320), (1, 480, 640), (1, 800, 1088), (1, 800, 1344), (1, 1344, 800), (2, 800, 1344))
TYPES = ("float32", "bfloat16")
WHAT = {"cpu": "beyond the model itself, resident memory at most", "cuda": "reserved by torch at most, in all"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.one:
        print(peak(options.device, *map(int, options.one[:3]), options.one[3]))
        return
    rows = []
    for count, height, width in SHAPES:
        found = {}
        for dtype in TYPES:
            command = [sys.executable, __file__, "--device", options.device, "--one", str(count), str(height),
                       str(width), dtype]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[dtype] = round(float(done.stdout.split()[-1]))
        rows.append({"batch": count, "height": height, "width": width, "MB": found})
        print(rows[-1], flush=True)
    result = {"machine": machine(), "what": WHAT[options.device.split(":")[0]], "rows": rows}
    path = RESULTS / device_name() / "buckets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def peak(device: str, count: int, height: int, width: int, dtype: str) -> float:
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
    return torch.cuda.max_memory_reserved() / 1e6 if device.startswith("cuda") else most() - before


def held() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def most() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    main()
