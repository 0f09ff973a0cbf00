"""Images per second of `python -m htc_fast.train` without data, and where a step's time goes.

    python -m benchmarks.sample_training [--rounds 5] [--steps 8] [--mode eager|compiled] [--label NAME] [--no-store]

Steps of the run's own loop over its own stream of pictures, which it loads itself. Rows are stored in
`training_speed.json`; a label tells rows of one machine apart, such as those of another revision, whose folder stands
first in PYTHONPATH while this file is run by its path.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace

import torch

from benchmarks import stored
from htc_fast.commands import entry
from htc_fast.device import supports
from htc_fast.errors import check_count
from htc_fast.ranges import watching
from htc_fast.training import Trainer, TrainingRun
from htc_fast.training.optimizer import set_rate

SUITE = "training_speed"
RATE = 1e-4  # small enough for losses to stay what they are


class Clock:
    """Seconds by part; parts within another count in both."""

    def __init__(self):
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.began: list[float] = []

    def begin(self, name: str) -> None:
        self.began.append(time.perf_counter())

    def end(self, name: str) -> None:
        self.spent[name] += time.perf_counter() - self.began.pop()


def measured(rounds: int, steps: int, mode: str, label: str) -> dict:
    """A row: milliseconds and images per second, median of `rounds`, and milliseconds by part of one more."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Trainer(TrainingRun.sample(out=folder, device="cpu", compile=mode == "compiled")).loop
        loop.model.train()
        set_rate(loop.optimizer, RATE)
        stream = loop.batches.stream()

        def run(count: int) -> float:
            began = time.perf_counter()
            for _ in range(count):
                loop.update(stream)
                loop.at = replace(loop.at, iteration=loop.at.iteration + 1)
            return (time.perf_counter() - began) / count

        first = run(1)
        run(5)
        took = [run(steps) for _ in range(rounds)]
        clock = Clock()
        with watching(clock):
            run(steps)
    batch, median = loop.batches.batch_size, statistics.median(took)
    bf16 = loop.recipe.amp and supports(torch.bfloat16, torch.device("cpu"))
    return {
        "case": "sample" + (f", {label}" if label else ""),
        "batch": batch,
        "mode": mode,
        "dtype": "bfloat16" if bf16 else "float32",
        "first step s": round(first, 1),
        "ms": round(median * 1e3, 1),
        "images/s": round(batch / median, 2),
        "spread ms": round((max(took) - min(took)) * 1e3, 1),
        "parts ms": {name: round(spent / steps * 1e3, 1) for name, spent in clock.spent.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of each round")
    parser.add_argument("--mode", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--label", default="", help="of the row")
    parser.add_argument("--no-store", action="store_true")
    options = parser.parse_args()
    check_count("--rounds", options.rounds)
    check_count("--steps", options.steps)
    row = measured(options.rounds, options.steps, options.mode, options.label)
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    if not options.no_store:
        device = torch.device("cpu")
        stored.add(stored.folder(device) / f"{SUITE}.json", device, [row], ("case", "batch", "mode"))
    return 0


if __name__ == "__main__":
    entry.run(main)
