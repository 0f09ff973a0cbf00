"""Predict a few thousand small pictures with `python -m htc_fast.predict`, and watch its memory.

    python -m benchmarks.soak [--pictures 2000] [--optimize] [--device cpu]

Results in benchmarks/results/<device>/soak.json or soak_optimized.json. Pictures of many sizes, some of them broken,
weights drawn at random: what is tested is that nothing grows. Exit status 1 if memory at the end is more than 3 % above
that after the first tenth.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import stored
from htc_fast import create_model
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.device import find_device
from htc_fast.errors import UserError
from htc_fast.training.checkpoint import weights_bytes

GROWTH = 1.03


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--optimize", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    device = find_device(options.device)
    path = stored.folder(device, options.out) / ("soak_optimized.json" if options.optimize else "soak.json")
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), options.pictures, device, options.optimize)
    stored.write(path, device, result)
    early, late = result["MB after a tenth"], result["MB at the end"]
    print(f"{result['pictures per second']} pictures/s, {early} MB after a tenth, {late} MB at the end: {path.name}")
    return 0 if late <= GROWTH * early else 1


def soak(folder: Path, pictures: int, device: torch.device, optimize: bool) -> dict:
    """Predict that many pictures from and into the folder.

    raises  UserError if the command did not do what it should
    """
    broken = make_pictures(folder / "pictures", pictures)
    make_weights(folder / "weights.safetensors")
    words = f"--image-size 128 --batch-size 4 --score 0.0 --device {device}".split() + ["--optimize"] * optimize
    places = [folder / "pictures", "--weights", folder / "weights.safetensors", "--out", folder / "out"]
    began = time.perf_counter()
    memory, status = watched([sys.executable, "-m", "htc_fast.predict", *map(str, places), *words])
    seconds = time.perf_counter() - began
    overlays = len(list((folder / "out").glob("*.jpg")))
    if status != (1 if broken else 0) or overlays != pictures - broken:
        raise UserError(f"predict ended with status {status} and {overlays} overlays, {broken} pictures being broken.")
    early, late = (round(float(np.median(part))) for part in (memory[len(memory) // 10 :][:20], memory[-20:]))
    return {
        "pictures": pictures,
        "broken": broken,
        "instances": len(json.loads((folder / "out" / "results.json").read_text())),
        "pictures per second": round(pictures / seconds, 1),
        "MB after a tenth": early,
        "MB at the end": late,
        "MB at most": round(max(memory)),
        "curve MB": [round(float(part.mean())) for part in np.array_split(np.array(memory), 40) if len(part)],
    }


def make_pictures(folder: Path, count: int) -> int:
    """JPEG files of many sizes; every 250th is cut short. Returns how many are."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    broken = 0
    for number in range(count):
        height, width = draw.integers(60, 260, 2)
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        path = folder / f"{number + 1:06d}.jpg"
        coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path)
        if number % 250 == 249:
            path.write_bytes(path.read_bytes()[:300])
            broken += 1
    return broken


def make_weights(path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"channels": 64, "box_channels": 128, "rpn_proposals": 100, "rpn_proposals_per_level": 100}
    model = create_model("htc_r50", backbone="resnet18", detections=20, num_classes=5, **sizes)
    path.write_bytes(weights_bytes(model))


def watched(command: list[str]) -> tuple[list[float], int]:
    """MB that a command has in use, twenty times a second once its pictures are under way, and its exit status."""
    page, memory = os.sysconf("SC_PAGE_SIZE") / 1e6, []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
            memory.append(int(pages) * page)
            time.sleep(0.05)
    return memory, process.returncode


if __name__ == "__main__":
    entry.run(main)
