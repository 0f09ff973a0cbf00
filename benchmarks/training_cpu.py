"""Images per second of training on a processor, and where a step's time goes: now, and at another revision.

    python -m benchmarks.training_cpu [--before CHECKOUT] [--classes avx2 avx512 native] [--works sample htc_r50]
                                      [--rounds 2] [--steps 6] [--compiled] [--out FOLDER] [--tiny]

sample: the loop of `python -m htc_fast.train` without data, over its own stream of pictures, which it loads itself.
htc_r50: a step of the paper's recipe at 800×1333, one picture. Two processes take turns, a step each: CHECKOUT,
another revision with its library built, and this one, class by class (what benchmarks.processors restricts a processor
to), in bf16 where the class has it. --compiled: one with --compile as well. Results in the device's training_cpu.json.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import processors, stored, training_steps
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.cores import usable_cores
from htc_fast.errors import UserError, check_count, choose
from htc_fast.profiling.meters import median_round

HERE = Path(__file__).resolve().parent.parent
ASK_CLASS = "from htc_fast.device import *; print(processor_class(), supports(torch.bfloat16, torch.device('cpu')))"


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another revision, built")
    parser.add_argument("--classes", nargs="+", default=["avx2", "avx512", processors.NATIVE])
    parser.add_argument("--works", nargs="+", default=list(training_steps.WORKS))
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, one after the other")
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


class Stepper:
    """A process of benchmarks.training_steps with a tree's own htc_fast, warm; ends with the `with` that it is in."""

    def __init__(self, words: list[str], environment: dict[str, str], tree: Path):
        command = [sys.executable, training_steps.__file__, *words]
        environment = {**environment, "PYTHONPATH": str(tree)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.batch = self._heard()

    def step(self) -> dict[str, float]:
        """Seconds by part."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._heard()

    def _heard(self) -> Any:
        if not (said := self.process.stdout.readline()):
            raise UserError(f"a process that trains ended with status {self.process.wait()}: see above.")
        return json.loads(said)

    def __enter__(self) -> "Stepper":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # nothing more to read ends it


def measured(name: str, work: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one class and work: both revisions, and compiled, step after step over all of them."""
    # Said, so that none takes the others' steps for company and leaves them a core.
    environment = {**os.environ, **processors.ENVIRONMENTS[name], "OMP_NUM_THREADS": str(usable_cores())}
    own, bf16 = asked_class(environment)
    dtype = "bfloat16" if bf16 == "True" else "float32"
    kinds = [("before", options.before, "eager")] if options.before is not None else []
    kinds += [("now", HERE, mode) for mode in ("eager", "compiled")[: 1 + options.compiled]]
    found: dict[tuple, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        with contextlib.ExitStack() as all_of_them:
            running = {}
            for kind in kinds:
                words = [work, kind[2], dtype, *(["tiny"] if options.tiny else [])]
                running[kind] = all_of_them.enter_context(Stepper(words, environment, kind[1]))
            for _ in range(max(1, options.steps // training_steps.FEWER[work])):
                for kind, process in running.items():
                    found[kind].append(process.step())
                    print(name, *kind[::2], work, dtype, f"{sum(found[kind][-1].values()):.3f} s", flush=True)
            batch = process.batch
    about = {"class": own, "work": work, "dtype": dtype}
    return [{**about, **summed(*kind[::2], batch, steps)} for kind, steps in found.items()]


def asked_class(environment: dict[str, str]) -> list[str]:
    """The class that a process of that environment is of, and whether it has bf16."""
    command = [sys.executable, "-c", ASK_CLASS]
    environment = {**environment, "PYTHONPATH": str(HERE)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def summed(when: str, mode: str, batch: int, steps: list[dict[str, float]]) -> dict[str, Any]:
    """One row: the median of all steps, and that step's parts."""
    seconds = sorted(sum(one.values()) for one in steps)
    median = statistics.median(seconds)
    return {
        **{"when": when, "mode": mode},
        "images/s": round(batch / median, 3),
        "ms": round(median * 1e3, 1),
        "fastest ms": round(seconds[0] * 1e3, 1),
        "slowest ms": round(seconds[-1] * 1e3, 1),
        "parts ms": {name: round(part * 1e3, 1) for name, part in median_round(steps).items()},
    }


def revision(tree: Path) -> str:
    """Of a checkout, as git abbreviates it; "unknown" where git does not know."""
    said = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    entry.run(main)
