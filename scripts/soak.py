"""Predict a few thousand small pictures as `python -m htc_fast.predict` does, and watch the memory.

python scripts/soak.py [--pictures 2000] [--device cpu]     results in benchmarks/results/<device>/soak.json

Pictures of many sizes, some of them broken, weights drawn at random: what is tested is that nothing grows. Exit status
1 if memory at the end is more than 3 % above that after the first tenth.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.conftest import RESULTS, device_name, machine
from htc_fast import create_model, predict
from htc_fast.training.checkpoint import weights_bytes

GROWTH = 1.03


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pictures", type=int, default=2000)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--optimize", action="store_true")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broken = make_pictures(Path(folder) / "pictures", options.pictures)
        make_weights(Path(folder) / "weights.safetensors")
        arguments = [folder + "/pictures", "--weights", folder + "/weights.safetensors", "--out", folder + "/out",
                     "--image-size", "128", "--batch-size", "4", "--score", "0.0", "--device", options.device,
                     *(["--optimize"] if options.optimize else [])]  # fmt: skip
        began = time.perf_counter()
        with watched() as memory:
            status = run(arguments)
        seconds = time.perf_counter() - began
        found = json.loads((Path(folder) / "out" / "results.json").read_text())
        overlays = len(list((Path(folder) / "out").glob("*.jpg")))
    assert status == (1 if broken else 0), f"exit status {status} with {broken} broken pictures"
    assert overlays == options.pictures - broken
    early, late = (round(float(np.median(part))) for part in (memory[len(memory) // 10 :][:20], memory[-20:]))
    result = {
        "machine": machine(),
        "pictures": options.pictures,
        "broken": broken,
        "instances": len(found),
        "pictures per second": round(options.pictures / seconds, 1),
        "MB after a tenth": early,
        "MB at the end": late,
        "MB at most": round(max(memory)),
        "curve MB": [round(float(part.mean())) for part in np.array_split(np.array(memory), 40)],
    }
    path = RESULTS / device_name() / ("soak_optimized.json" if options.optimize else "soak.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['pictures per second']} pictures/s, {early} MB after a tenth, {late} MB at the end: {path.name}")
    return 0 if late <= GROWTH * early else 1


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
    model = create_model("htc_r50", backbone="resnet18", channels=64, box_channels=128, rpn_proposals=100,
                         rpn_proposals_per_level=100, detections=20, num_classes=5)  # fmt: skip
    path.write_bytes(weights_bytes(model))


def run(arguments: list[str]) -> int:
    sys.argv = ["predict", *arguments]
    return predict.main()


@contextlib.contextmanager
def watched():
    """MB in use, twenty times a second."""
    memory, end, page = [], threading.Event(), os.sysconf("SC_PAGE_SIZE") / 1e6

    def watch():
        while not end.wait(0.05):
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        end.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
