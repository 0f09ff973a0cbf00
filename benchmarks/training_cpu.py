"""Images per second of training on a processor, and where a step's time goes: now, and at another revision.

    python -m benchmarks.training_cpu [--before CHECKOUT] [--classes avx2 native] [--works sample htc_r50]
                                      [--rounds 2] [--steps 6] [--compiled] [--out FOLDER] [--tiny]

sample: the loop of `python -m htc_fast.train` without data, over its own stream of pictures, which it loads itself.
htc_r50: a step of the paper's recipe at 800×1333, one picture. Processes take turns: CHECKOUT, another revision with
its library built, and this one, class by class (what benchmarks.processors restricts a processor to), in bf16 where the
class has it. --compiled: with --compile as well. Results in the device's training_cpu.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import processors, stored, training_steps
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.errors import UserError, check_count, choose

HERE = Path(__file__).resolve().parent.parent
ASK_CLASS = "from htc_fast.device import *; print(processor_class(), supports(torch.bfloat16, torch.device('cpu')))"


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another revision, built")
    parser.add_argument("--classes", nargs="+", default=["avx2", processors.NATIVE])
    parser.add_argument("--works", nargs="+", default=list(training_steps.WORKS))
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=6, help="that a process times")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="a toy: to see that it runs")
    options = parser.parse_args()
    for name in ("rounds", "steps"):
        check_count(f"--{name}", getattr(options, name))
    if options.before is not None and not (options.before / "htc_fast/train.py").exists():
        raise UserError(f"--before {options.before} is no checkout of htc_fast: name the folder that holds htc_fast/.")
    classes = processors.here([choose(one, processors.ENVIRONMENTS, "class") for one in options.classes])
    works = [choose(one, training_steps.WORKS, "work") for one in options.works]
    device = torch.device("cpu")
    path = stored.folder(device, options.out) / "training_cpu.json"
    rows = [row for name in classes for work in works for row in measured(name, work, options)]
    revisions = {"before": revision(options.before)} if options.before else {}
    stored.write(path, device, {"revisions": revisions, "rows": rows})
    return 0


def measured(name: str, work: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one class and work: both revisions, and compiled, round after round over all of them."""
    environment = {**os.environ, **processors.ENVIRONMENTS[name]}
    own, bf16 = asked([sys.executable, "-c", ASK_CLASS], environment, HERE).split()
    kinds = [("before", options.before, "eager")] if options.before is not None else []
    kinds += [("now", HERE, mode) for mode in ("eager", "compiled")[: 1 + options.compiled]]
    found: dict[tuple, list[dict]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind in kinds:
            _, tree, mode = kind
            words = [work, mode, "bfloat16" if bf16 == "True" else "float32", str(options.steps)]
            command = [sys.executable, training_steps.__file__, *words, *(["tiny"] if options.tiny else [])]
            found[kind].append(json.loads(asked(command, environment, tree).splitlines()[-1]))
            print(name, kind[0], *words[:3], found[kind][-1]["seconds"], flush=True)
    return [summed(own, work, *kind[::2], runs) for kind, runs in found.items()]


def asked(command: list[str], environment: dict[str, str], tree: Path) -> str:
    """What a process says with the tree's own htc_fast."""
    environment = {**environment, "PYTHONPATH": str(tree)}
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        ).stdout


def summed(own: str, work: str, when: str, mode: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of several processes: the median of all their steps, the last's parts."""
    seconds = sorted(one for run in runs for one in run["seconds"])
    median = statistics.median(seconds)
    return {
        **{"class": own, "work": work, "when": when, "mode": mode, "dtype": runs[0]["dtype"]},
        "images/s": round(runs[0]["batch"] / median, 3),
        "ms": round(median * 1e3, 1),
        "fastest ms": round(seconds[0] * 1e3, 1),
        "slowest ms": round(seconds[-1] * 1e3, 1),
        "parts ms": runs[-1]["parts ms"],
    }


def revision(tree: Path) -> str:
    """Of a checkout, as git abbreviates it; "unknown" where git does not know."""
    said = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    entry.run(main)
