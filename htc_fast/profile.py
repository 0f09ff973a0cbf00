"""`python -m htc_fast.profile`: where the time goes, part by part, beside this device's limit and the paper's table."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.inference.buckets import out_of_memory
from htc_fast.profiling import detect, limits, report
from htc_fast.profiling import run as profile_setup
from htc_fast.profiling.peers import profile_peers

INTERRUPTED = "interrupted: what is missing was not measured"


def parser() -> argparse.ArgumentParser:
    """All options; what is left out depends on the device."""
    made = Parser(
        prog="python -m htc_fast.profile",
        description="Measure every part of the paper's detectors, beside what this device could do at best.",
    )
    add = made.add_argument
    add("--models", nargs="+", metavar="NAME", help="default: the rows of the paper's Table 1")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short and long side (default: 800 1333; CPU: half)")
    add("--batch-size", type=int, default=1, help="pictures at once")
    add("--dtypes", nargs="+", metavar="DTYPE", help="float32, bfloat16 (default: both where the device has them)")
    add("--modes", nargs="+", metavar="MODE", help="eager, optimized, peers (default: all)")
    add("--rounds", type=int, help="timed runs of each, after one that is not (default: 20; CPU: 3)")
    add("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="fields of the configuration")
    add("--train", action="store_true", help="a training step instead, on sample pictures")
    add("--trace", type=Path, metavar="FILE", help="also write one run as a Chrome trace: chrome://tracing, Perfetto")
    add("--out", type=Path, default=Path("runs/profile"), help="folder for profile.json and profile.png")
    add("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    add("--threads", type=int, help="CPU threads")
    return made


def main() -> int:
    """Measure, print, write."""
    options = profile_setup.check(parser().parse_args())
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setting, changed = profile_setup.setting(options)
    say = profile_setup.Progress()
    for line in changed:
        print(line, file=sys.stderr)
    say("measuring a copy and a product")
    top = limits.measure(setting.device)
    say.line(profile_setup.estimate(options, setting, top))
    found = Found()
    try:
        measure(options, setting, say, found)
        say("measuring a copy and a product again")
        top = top.best(limits.measure(setting.device))
        if options.trace is not None:
            say(f"writing {options.trace}")
            profile_setup.trace(options, setting)
    except KeyboardInterrupt:
        say.line("interrupted")
        changed.append(INTERRUPTED)
    say.done()
    if found.runs:
        show(profile_setup.result(options, setting, changed, top, found), options)
    for who, reason in found.failed.items():
        print(f"{who}: {reason}", file=sys.stderr)
    return 130 if INTERRUPTED in changed else 2 * (not found.runs)


@dataclass
class Found:
    """What was measured so far.

    runs    and the peak memory in MB of each where it is a training step
    absent  peer -> why it is not here
    failed  model -> why it has no run
    """

    runs: list[detect.Run] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def measure(options, setting, say, found: Found) -> None:
    """All runs, one model after the other; one that does not fit into memory leaves the others."""
    for name in options.models:
        try:
            if options.train:
                run, peak = profile_setup.train_step(options, name, setting, say)
                found.runs.append(run)
                found.memory.append(peak)
            else:
                for run in detect.profile_model(name, setting, say, **profile_setup.overrides(options)):
                    found.runs.append(run)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            found.failed[name] = "not enough memory: a smaller --image-size or --batch-size"
    if "peers" in options.modes and not options.train:
        others, found.absent = profile_peers(setting, say)
        found.runs += others


def show(result: dict, options) -> None:
    """On the terminal, and in files."""
    print(report.text(result))
    print("\n" + report.bottlenecks(result))
    written = profile_setup.write(result, options.out, "profile_train" if options.train else "profile")
    print(f"\n{' and '.join(map(str, written))}")
    if len(written) == 1:
        print("no picture was drawn: pip install matplotlib", file=sys.stderr)


if __name__ == "__main__":
    entry.run(main)
