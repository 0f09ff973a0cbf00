"""HTC R-50 on one processor, used as processors of lower classes are: each part beside its limit and its rivals.

    python -m benchmarks.processors [--classes avx2 avx512 avx512-bf16 native] [--threads 2] [--rounds 2] [--tiny]
                                    [--folder DIR] [--out FOLDER]

A class is a process whose environment restricts PyTorch, oneDNN and MKL, and by it our kernels and choices. Of each
class: its limits (a copy and a product, measured in it), milliseconds of every part in each runtime of
benchmarks.runtimes that follows such a restriction, torchvision's Mask R-CNN as a whole, and the parts of a training
step. ONNX Runtime cannot be restricted and is measured in the native class alone. The rows of a class take turns, round
after round, so that a machine that slows down is fair, and each number is its fastest round's; limits are measured
before, between and after them, and the highest counts. Results in the device's processors.json, where classes that were
measured in the same way and are not asked for now stay. --folder keeps the files that are run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import deploy, processor, stored, timer
from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.device import CLASSES, native_instructions, processor_class
from htc_fast.errors import UserError, check_count, choose, few
from htc_fast.profiling.limits import Limits, version
from htc_fast.profiling.meters import CostMeter, Need
from htc_fast.ranges import watching

SIZE = 800, 1333
NATIVE = "native"
# What makes a process one of a class.
ENVIRONMENTS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx2-vnni": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx512-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "avx512-bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    NATIVE: {},
}
USUAL = "avx2", "avx512", "avx512-bf16", NATIVE
TYPES = "float32", "bfloat16", "int8"
OURS = ("eager", "float32"), *(("optimized", dtype) for dtype in TYPES)
RIVALS = *(("openvino", dtype) for dtype in TYPES), ("compiled", "float32"), ("onnxruntime", "float32")
# MLAS asks the processor alone; inductor takes a minute to compile, and leaves convolutions to oneDNN.
ONLY = {"onnxruntime": (NATIVE,), "compiled": ("avx2", NATIVE)}
# The whole of a child process, in the environment of its class.
ASK = "import json; from benchmarks import processor; print(json.dumps(processor.{call}))"
Found = dict[str, Any]


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", default=list(USUAL))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of timed calls per process")
    parser.add_argument("--folder", type=Path, help="where the files are made, and found again")
    parser.add_argument("--tiny", action="store_true", help="a small network on a small picture")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    for name in ("threads", "rounds"):
        check_count(f"--{name}", getattr(options, name))
    asked = here([choose(one, ENVIRONMENTS, "class") for one in options.classes])
    torch.set_num_threads(options.threads)  # the results' folder is named after them
    path = stored.folder(torch.device("cpu"), options.out) / "processors.json"
    size = (64, 96) if options.tiny else SIZE
    with tempfile.TemporaryDirectory() as scratch:
        case = deploy.Case(size, options.folder or Path(scratch), options.tiny)
        absent = case.prepare([deploy.file_of(*row) for row in (*OURS, *RIVALS)])
        needs = counted(case)
        found = [one_class(name, case, needs, absent, options) for name in asked]
    packages = {name: version(name) for name in ("onnxruntime", "openvino")}
    about = {"model": "htc_r50", "size": list(size), "threads": options.threads, "rounds": options.rounds}
    result = {**about, "packages": packages, "classes": found}
    stored.write(path, torch.device("cpu"), with_others(result, stored.load(path)))
    return 0


def with_others(result: Found, before: Found) -> Found:
    """The result with the classes of one before that lack in it, where all else is the same."""
    if any(before.get(name) != value for name, value in result.items() if name != "classes"):
        return result
    now = {one["class"]: one for one in result["classes"]}
    classes = {one["class"]: one for one in before["classes"]} | now
    order = list(reversed(CLASSES))  # "baseline" has none
    return {**result, "classes": sorted(classes.values(), key=lambda one: (*order, one["class"]).index(one["class"]))}


def here(asked: list[str]) -> list[str]:
    """Those that this processor can be restricted to: each below its own, which is the native one."""
    order = list(CLASSES)
    own = processor_class(native_instructions())
    below = order[order.index(own) + 1 :] if own in order else []
    if not (found := [name for name in asked if name == NATIVE or name in below]):
        there = few([NATIVE, *below])
        raise UserError(f"--classes takes what this processor, {own}, can be restricted to: {there}; got {few(asked)}.")
    return found


def counted(case: deploy.Case) -> dict[str, Need]:
    """What each part needs."""
    with torch.no_grad(), CostMeter() as meter, watching(meter):
        case.model.detect(*case.inputs)
    return meter.needs


def one_class(
    name: str, case: deploy.Case, needs: dict[str, Need], absent: dict[str, str], options: argparse.Namespace
) -> Found:
    """One class: its limits, its rows and its training step."""
    environment = ENVIRONMENTS[name]
    own = ask(f"about({options.tiny}, {options.threads})", environment)
    top = limits_in(own)
    asked = [
        (runtime, dtype)
        for runtime, dtype in (*OURS, *RIVALS)
        if (dtype in own["types"]) and name in ONLY.get(runtime, (name,)) and deploy.possible(runtime, "float32")
    ]
    runs: dict[tuple[str, str], list[Found]] = {row: [] for row in asked}
    steps = []
    for _ in range(options.rounds):
        for row in asked:
            ran = runs[row]
            if deploy.file_of(*row) in absent:
                ran.append({"failed": absent[deploy.file_of(*row)]})
            elif not any("failed" in one for one in ran):
                ran.append(deploy.apart(case, *row, options, last=True, environment=environment))
        others = ask(f"measured({case.size}, {options.tiny}, {options.threads})", environment)
        for who, dtype, seconds in others["rows"]:
            runs.setdefault((who, dtype), []).append({"seconds": seconds})
        steps.append(others["step"])
        top = top.best(limits_in(ask(f"about({options.tiny}, {options.threads})", environment)))
    limits = {dtype: limit_of(needs, top, dtype) for dtype in top.products}
    about = {"class": own["class"], "native": name == NATIVE, "environment": environment, "limits": top.as_dict()}
    rows = [fastest(*row, ran) for row, ran in runs.items()]
    return {**about, "limit ms": limits, "rows": rows, "train": processor.step_of(steps, top)}


def ask(call: str, environment: dict[str, str]) -> Found:
    """What a function of benchmarks.processor returns in a process of that environment."""
    command, where = [sys.executable, "-c", ASK.format(call=call)], {**os.environ, **environment}
    process = subprocess.run(command, env=where, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def limits_in(own: Found) -> Limits:
    rates = dict(own["limits"])
    return Limits(rates.pop("copy"), rates)


def limit_of(needs: dict[str, Need], top: Limits, dtype: str) -> dict[str, float]:
    """Part -> milliseconds that it takes at least."""
    return {part: round(need.seconds(top, dtype) * 1e3, 3) for part, need in needs.items()}


def fastest(runtime: str, dtype: str, runs: list[Found]) -> Found:
    """One row of several rounds: the least of their medians, and of each part; or why there is none."""
    about = {"runtime": runtime, "dtype": dtype}
    failed = [one["failed"] for one in runs if "failed" in one]
    if failed:
        return {**about, "failed": failed[0]}
    times = min((timer.summary(one["seconds"]) for one in runs), key=lambda one: one["median"])
    parts = [one.get("parts", {}) for one in runs]
    least = {name: round(min(one[name] for one in parts if name in one), 2) for name in parts[0]}
    return {**about, "milliseconds": times, "parts": least}


if __name__ == "__main__":
    entry.run(main)
