"""`python -m htc_fast.profile`: where the time goes, part by part, beside this device's limit and the paper's table."""

import argparse
import sys
from pathlib import Path

import torch

from htc_fast import cli, profile_setup
from htc_fast.profiling import detect, limits, report
from htc_fast.profiling.paper import FPS, published
from htc_fast.profiling.peers import profile_peers


def parser() -> argparse.ArgumentParser:
    """All options; what is left out depends on the device."""
    made = cli.Parser(
        prog="python -m htc_fast.profile",
        description="Measure every part of the paper's detectors, beside what this device could do at best.",
    )
    add = made.add_argument
    add("--models", nargs="+", metavar="NAME", help="default: the rows of the paper's Table 1")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short and long side (default: 800 1333; CPU: half)")
    add("--batch-size", type=int, default=1, help="pictures at once")
    add("--dtypes", nargs="+", metavar="DTYPE", help="float32, bfloat16 (default: both where the device has them)")
    add("--modes", nargs="+", metavar="MODE", help="eager, optimised, peers (default: all)")
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
    say = profile_setup.Progress(options, setting)
    for line in changed:
        print(line, file=sys.stderr)
    print(say.estimate(), file=sys.stderr, flush=True)
    say("measuring a copy and a product")
    top = limits.measure(setting.device)
    runs, memory, absent = measure(options, setting, say)
    say("measuring a copy and a product again")
    top = top.best(limits.measure(setting.device))
    rows = [run.row(top) for run in runs]
    for row, peak in zip(rows, memory):
        row["memory_mb"] = peak
    about = {"size": list(setting.size), "batch_size": setting.batch_size, "rounds": setting.rounds, "changed": changed}
    papers = {} if options.train else {name: published(name) for name in options.models if name in FPS}
    result = {"machine": limits.machine(), "limits": top.as_dict(), "setting": about, "paper": papers,
              "absent": absent, "rows": rows}  # fmt: skip
    result["machine"]["device"] = limits.device_name(setting.device)
    if options.trace is not None:
        say(f"writing {options.trace}")
        profile_setup.trace(options, setting)
    say.done()
    print(report.text(result))
    print("\n" + report.bottlenecks(result))
    written = profile_setup.write(result, options.out, "profile_train" if options.train else "profile")
    print(f"\n{' and '.join(map(str, written))}")
    return 0


def measure(options, setting, say) -> tuple[list[detect.Run], list[float], dict[str, str]]:
    """All runs; peak memory of each where it is a training step; who is absent and why."""
    if options.train:
        found = [profile_setup.train_step(options, name, setting, say) for name in options.models]
        return [run for run, _ in found], [peak for _, peak in found], {}
    overrides = profile_setup.overrides(options)
    runs = [run for name in options.models for run in detect.profile_model(name, setting, say, **overrides)]
    absent: dict[str, str] = {}
    if "peers" in options.modes:
        others, absent = profile_peers(setting, say)
        runs += others
    return runs, [], absent


if __name__ == "__main__":
    cli.run(main)
