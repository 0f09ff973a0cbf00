"""HTC, SCNet and HTC with the strong recipe: trained for the same minutes on the same cores, three seeds each.

    python -m benchmarks.descendants [--minutes 4] [--seeds 3] [--jobs 2] [--cases HTC SCNet] [--out FOLDER]
                                    [--no-store]

Each run is the sample's small one under a limit of time, so that a slower step costs steps. Every case of a seed runs
before the next seed begins, so that a machine that slows down is fair. What is done already is not done again.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import stored
from htc_fast.ablation.one import Task
from htc_fast.ablation.runs import carried_out, progress, told
from htc_fast.commands import entry
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import find_device
from htc_fast.errors import check_count, check_number, choose
from htc_fast.training import TrainingRun

SUITE = "descendants"
EPOCHS = 1000.0  # more than any limit of time lets
CASES: dict[str, dict[str, Any]] = {
    "HTC": {},
    "SCNet": {"model": "scnet_r50"},
    "HTC, strong recipe": {"recipe": "strong"},
}


def task(case: str, seed: int, minutes: float, data: Path, folder: Path) -> Task:
    """One run of a case."""
    run = TrainingRun.sample(max_minutes=minutes, **CASES[case])
    name = f"{case.replace(', ', '_').replace(' ', '_')}-seed{seed}"
    return Task(replace(run, epochs=EPOCHS, evaluate_every=0, seed=seed, data=data, out=folder / name), (None,))


def row(case: str, minutes: float, runs: list[dict[str, Any]], jobs: int) -> dict[str, Any]:
    """What is stored of a case: its seeds with their steps, seconds and scores."""
    kept = ("seed", "iterations", "training seconds")
    scores = [{**{name: one[name] for name in kept}, **one["stages"]["ensemble"]} for one in runs]
    return {"case": case, "minutes": minutes, "jobs": jobs, "runs": scores}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/descendants"))
    parser.add_argument("--no-store", action="store_true")
    asked = parser.parse_args()
    check_number("--minutes", asked.minutes)
    check_count("--seeds", asked.seeds)
    check_count("--jobs", asked.jobs)
    cases = [choose(case, CASES, "case") for case in asked.cases]
    data, device = make_sample_dataset(), find_device(None)
    tasks = {
        (case, seed): task(case, seed, asked.minutes, data, asked.out) for seed in range(asked.seeds) for case in cases
    }
    done = {one.folder: scores for one in tasks.values() if (scores := one.scores()) is not None}
    for one, scores in carried_out([one for one in tasks.values() if one.folder not in done], asked.jobs):
        done[one.folder] = scores
        progress(f"{one.folder.name}: {scores['iterations']} steps, {told(scores)}")
    rows = [
        row(case, asked.minutes, [done[tasks[case, seed].folder] for seed in range(asked.seeds)], asked.jobs)
        for case in cases
    ]
    if not asked.no_store:
        stored.add(stored.folder(device) / f"{SUITE}.json", device, rows, ("case", "minutes"))
    print(*rows, sep="\n", file=sys.stdout)
    return 0


if __name__ == "__main__":
    entry.run(main)
