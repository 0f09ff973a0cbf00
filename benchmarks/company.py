"""Training and optimized inference beside others who want the processor too: threads by free cores, and fixed ones.

    python -m benchmarks.company [--seconds 4] [--rounds 2] [--out FOLDER] [--no-store] [--tiny]

Two processes take turns: one whose threads are as many as cores are free, one whose threads are fixed (OMP_NUM_THREADS,
what there was before). Both train as `python -m htc_fast.train` does with no data named, and detect with an optimized
HTC R-50 at 480×640: alone, beside busy processes of equal and of the lowest priority, and with a share of 1.5 cores
where a cgroup of version 1 can be made. Results in the processor's company.json. --tiny: a toy, nothing stored.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import htc_fast
from benchmarks import stored
from benchmarks.detectors import TINY
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.errors import check_count
from htc_fast.training import Trainer, TrainingRun

BUSY, NICE = "while True: pass", "import os; os.nice(19)\nwhile True: pass"
# Who is there besides -> what they run.
COMPANY = {
    "nobody": [],
    "a busy process": [BUSY],
    "two busy processes": [BUSY] * 2,
    "a busy process of the lowest priority": [NICE],
}
SHARE = "nobody, with 1.5 cores' share of time"
GROUP = Path("/sys/fs/cgroup/cpu/htc_fast_company")
THREADS = "by free cores", "fixed"
WORKS = "training", "inference"
SETTLE = 2.5  # seconds before the clock starts: threads follow once a second
SIZE = 480, 640


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", choices=THREADS, nargs="+", default=list(THREADS))
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a toy: to see that it runs")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_count("--seconds", options.seconds)
    check_count("--rounds", options.rounds)
    if options.work:
        return work(options.tiny)
    device = torch.device("cpu")
    keeps = not (options.no_store or options.tiny)
    path = stored.folder(device, options.out) / "company.json" if keeps else None
    rows = measured(options)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if path is not None:
        stored.write(path, device, {"cores": len(os.sched_getaffinity(0)), "rows": rows})


def measured(options: argparse.Namespace) -> list[dict]:
    """A row for each work, company and way to choose threads."""
    took: dict[tuple[str, str, str], list[dict]] = {}
    with contextlib.ExitStack() as stack:
        workers = {threads: stack.enter_context(worker(threads, options.tiny)) for threads in options.threads}
        groups = [*list(COMPANY)[: 2 if options.tiny else None], *[SHARE] * (can_share() and not options.tiny)]
        for number in range(1 if options.tiny else options.rounds):
            for who in groups:
                for threads, process in list(workers.items())[:: -1 if number % 2 else 1]:
                    with beside(who, process):
                        for what in WORKS:
                            found = ask(process, what, 0 if options.tiny else options.seconds)
                            took.setdefault((what, who, threads), []).extend(found)
    return [row_of(took, *key) for key in sorted(took, key=lambda key: (WORKS.index(key[0]), groups.index(key[1])))]


def row_of(took: dict[tuple[str, str, str], list[dict]], what: str, who: str, threads: str) -> dict:
    """Its speed, and what part that is of what the same threads reach alone."""
    rate, alone = speed(took[what, who, threads]), speed(took[what, "nobody", threads])
    steps = [step["seconds"] for step in took[what, who, threads]]
    return {
        "work": what,
        "beside": who,
        "threads": threads,
        "used": sorted({step["threads"] for step in took[what, who, threads]}),
        "images/s": round(rate, 2),
        "ms": round(statistics.median(steps) * 1e3, 1),
        "spread ms": round((max(steps) - min(steps)) * 1e3, 1),
        "of alone": round(rate / alone, 2),
    }


def speed(steps: list[dict]) -> float:
    """Images per second, slow steps and quick ones together."""
    return sum(step["images"] for step in steps) / sum(step["seconds"] for step in steps)


def can_share() -> bool:
    """Whether a group with a share of time can be made here; says where not."""
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "cpu.cfs_quota_us").write_text("150000")
        GROUP.rmdir()
    except OSError as error:
        print(f"without a share of 1.5 cores: {GROUP.parent} takes no group ({error.strerror}).", file=sys.stderr)
        return False
    return True


@contextlib.contextmanager
def beside(who: str, process: subprocess.Popen) -> Iterator[None]:
    """Others at work, or the process in a group with a share of time."""
    others = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in COMPANY.get(who, [])]
    if who == SHARE:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "cpu.cfs_quota_us").write_text("150000")
        (GROUP / "cgroup.procs").write_text(str(process.pid))
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
        if who == SHARE:
            (GROUP.parent / "cgroup.procs").write_text(str(process.pid))
            GROUP.rmdir()


@contextlib.contextmanager
def worker(threads: str, tiny: bool) -> Iterator[subprocess.Popen]:
    """A process that works when it is asked to, and sleeps otherwise."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    if threads == "fixed":
        environment["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "benchmarks.company", "--work", *["--tiny"] * tiny]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ask(process, WORKS[-1], 0)  # it is ready
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen, what: str, seconds: float) -> list[dict]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([what, seconds]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def work(tiny: bool) -> None:
    """Each line of the input names a work and its seconds; the answer is a line with the steps done."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        steps = {"training": training(Path(folder), tiny), "inference": inference(tiny)}
        for step in steps.values():
            step()
        for line in sys.stdin:
            what, seconds = json.loads(line)
            until(steps[what], min(SETTLE, seconds))
            print(json.dumps(until(steps[what], seconds)), file=answers, flush=True)


def until(step: Callable[[], int], seconds: float) -> list[dict]:
    """Steps for so long, one at least: the images of each, its seconds and its threads."""
    done, began = [], time.perf_counter()
    while not done or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        images = step()
        done.append({"images": images, "seconds": time.perf_counter() - start, "threads": torch.get_num_threads()})
    return done


def training(folder: Path, tiny: bool) -> Callable[[], int]:
    """A step of the run with no data named, from pictures on the disk to changed weights."""
    small = {"set": {key: value for key, value in TINY.items() if "classes" not in key}} if tiny else {}
    loop = Trainer(TrainingRun.sample(out=folder, pretrained=False, device="cpu", **small)).loop
    loop.model.train()
    batches = loop.batches.stream()
    return lambda: loop.update(batches)[1]


def inference(tiny: bool) -> Callable[[], int]:
    """One picture through an optimized HTC R-50."""
    torch.manual_seed(0)
    model = htc_fast.create_model("htc_r50", **(TINY if tiny else {})).eval()
    size = (96, 128) if tiny else SIZE
    optimized, images, sizes = htc_fast.optimize(model, size), torch.rand(1, 3, *size), torch.tensor([size])

    def step() -> int:
        optimized.detect(images, sizes)
        return 1

    return step


if __name__ == "__main__":
    entry.run(main)
