"""Where a detector's time goes on a GPU: every kernel of one replay, and every operator beside its own limit.

    python -m benchmarks.kernels [--batch 1 8] [--trace FOLDER] [--no-store] [--tiny --device cpu]

HTC R-50 at 800×1344 in bf16, normalised pixels on the device to detections on it: eager under autocast, and optimised,
whose replay may not wait for the device anywhere (torch's sync-debug mode says so). Rows are stored in `kernels.json`,
each as soon as it is known. Operators are those of a run without a graph, one after the other, and their kernels are
found by who launched them; an operator's limit is the roofline of its operations and bytes, a kernel's is its share of
that by time. --tiny: a toy, in float32, nothing stored: to see that it runs.
"""

import argparse
import bisect
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import stored
from benchmarks.detectors import network
from benchmarks.inputs import Draw
from htc_fast.device import autocast, find_device
from htc_fast.inference import optimize
from htc_fast.profiling.costs import cost
from htc_fast.profiling.limits import Limits, measure
from htc_fast.profiling.meters import REST, CostMeter
from htc_fast.ranges import watching

ROUNDS = 50
MARK = "htc_fast operator "
HOST, DEVICE = ("cuda_runtime", "cuda_driver"), ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass
class Call:
    """One operator call: which part it is in, its name, operations, bytes, and its kernels with their microseconds."""

    part: str
    name: str
    flop: float = 0.0
    moved: float = 0.0
    kernels: list[tuple[str, float]] = field(default_factory=list)


class Marker(CostMeter):
    """Marks every operator for the profiler, and writes down what it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        call = Call(self.inside[-1] if self.inside else REST, operator._schema.name)
        with torch.profiler.record_function(f"{MARK}{len(self.calls)}"):
            result = operator(*args, **(kwargs or {}))
        self.calls.append(call)
        needs = cost(operator, args, kwargs or {}, result)
        call.flop, call.moved = sum(need.flop for need in needs), sum(need.moved for need in needs)
        return result


def attributed(trace: dict, calls: list[Call]) -> list[Call]:
    """Give every kernel of a Chrome trace to the call during which it was launched.

    returns  the calls that launched something, behind them one for what none did
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    marks = sorted(
        (event["ts"], event["ts"] + event["dur"], int(event["name"].removeprefix(MARK)))
        for event in events
        if event["name"].startswith(MARK) and event.get("cat") != "gpu_user_annotation"
    )
    launched = {event["args"].get("correlation"): event["ts"] for event in events if event.get("cat") in HOST}
    rest = Call(REST, "none")
    for event in events:
        if event.get("cat") in DEVICE:
            when = launched.get(event["args"].get("correlation"), -1)
            place = bisect.bisect(marks, when, key=lambda mark: mark[0]) - 1
            found = place >= 0 and when <= marks[place][1]
            (calls[marks[place][2]] if found else rest).kernels.append((event["name"], float(event["dur"])))
    return [call for call in [*calls, rest] if call.kernels]


def milliseconds(call: Callable[[], object], device: torch.device, rounds: int, warm: bool = True) -> dict[str, float]:
    """Of single calls, waited for: median and least. Of calls in a row, waited for at the end: the mean.

    warm  three calls come first that do not count
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found = []
    for _ in range(3 * warm):
        call()
        wait()
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        wait()
        found.append((time.perf_counter() - began) * 1e3)
    began = time.perf_counter()
    for _ in range(rounds):
        call()
    wait()
    row = (time.perf_counter() - began) * 1e3 / rounds
    return {"ms": statistics.median(found), "least ms": min(found), "ms in a row": row}


def replay(call: Callable[[], object], device: torch.device, trace: Path) -> list[dict]:
    """Of one call: kernel, how often, microseconds in all; longest first. Nothing in it may wait for the device."""
    on_gpu = device.type == "cuda"
    activity, kind = ("CUDA", "CUDA") if on_gpu else ("CPU", "CPU")
    with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, activity)]) as profile:
        if on_gpu:
            torch.cuda.synchronize(device)
            torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            if on_gpu:
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize(device)
    profile.export_chrome_trace(str(trace))
    wanted = getattr(torch.autograd.DeviceType, kind)
    counts, times = Counter[str](), Counter[str]()
    for event in profile.events() or ():
        if event.device_type == wanted:
            counts[event.name] += 1
            times[event.name] += event.time_range.elapsed_us()
    return [{"kernel": name, "count": counts[name], "us": round(us, 2)} for name, us in times.most_common()]


@torch.no_grad()
def marked(detect: Callable[[], object], device: torch.device, trace: Path) -> list[Call]:
    """The operators of one call and their kernels."""
    detect()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    marker = Marker()
    with torch.profiler.profile(activities=activities) as profile, watching(marker), marker:
        detect()
    profile.export_chrome_trace(str(trace))
    return attributed(json.loads(trace.read_text()), marker.calls)


def operators(calls: list[Call], limits: Limits, dtype: str) -> list[dict]:
    """One row per part and operator, in the order in which they begin; and per kernel, what it should take at least."""
    rows: dict[tuple[str, str], dict] = {}
    for call in calls:
        row = rows.setdefault((call.part, call.name), dict(part=call.part, operator=call.name, calls=0, kernels={}))
        row["calls"] += 1
        for name, value in {
            "us": sum(us for _, us in call.kernels),
            "gflop": call.flop / 1e9,
            "mb": call.moved / 1e6,
            "limit us": limits.seconds(call.flop, call.moved, dtype) * 1e6,
        }.items():
            row[name] = row.get(name, 0.0) + value
        for name, us in call.kernels:
            before = row["kernels"].get(name, [0, 0.0])
            row["kernels"][name] = [before[0] + 1, before[1] + us]
    return list(rows.values())


def least(calls: list[Call], limits: Limits, dtype: str) -> dict[str, float]:
    """Kernel -> microseconds at least, all its launches together: its share by time of its operator's limit."""
    found = Counter[str]()
    for call in calls:
        whole = sum(us for _, us in call.kernels) or 1.0
        for name, us in call.kernels:
            found[name] += limits.seconds(call.flop, call.moved, dtype) * 1e6 * us / whole
    return found


def measured(batch: int, draw: Draw, limits: Limits, dtype: str, folder: Path) -> Iterator[dict]:
    """A row for the detector as it is, and one for the optimised one, with its kernels and operators."""
    height, width = (64, 96) if draw.tiny else (800, 1344)
    model, on_gpu = network("htc_r50", draw), draw.device.type == "cuda"
    images = draw.normal(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[height, width]] * batch, device=draw.device)
    about = {"case": "htc_r50", "batch": batch, "dtype": dtype}
    rounds = ROUNDS if on_gpu else 1

    def eager() -> None:
        with autocast(draw.device, dtype == "bfloat16"):
            model.detect(images, sizes)

    yield about | {"mode": "eager"} | milliseconds(eager, draw.device, rounds)
    fast = optimize(model, (height, width), batch, getattr(torch, dtype))
    row = about | {"mode": "optimized"} | milliseconds(lambda: fast.detect(images, sizes), draw.device, rounds)
    row["replay"] = replay(lambda: fast.detect(images, sizes), draw.device, folder / f"replay_{batch}.json")
    fast.buckets = None
    calls = marked(lambda: fast.detect(images, sizes), draw.device, folder / f"operators_{batch}.json")
    shares = least(calls, limits, dtype)
    for one in row["replay"]:
        if one["kernel"] in shares:
            one["limit us"] = round(shares[one["kernel"]], 2)
    yield row | {"operators": operators(calls, limits, dtype)}


def say(row: dict) -> None:
    print(f"{row['mode']}, batch {row['batch']}: {row['ms']:.3f} ms, in a row {row['ms in a row']:.3f}, "
          f"least {row['least ms']:.3f}", flush=True)  # fmt: skip
    for one in row.get("operators", ()):
        print(f"{one['part'][:16]:16} {one['operator'][:44]:44} {one['calls']:4} x {one['us']:9.1f} us, "
              f"limit {one['limit us']:8.1f}", flush=True)  # fmt: skip
    for one in row.get("replay", ())[:45]:
        print(f"{one['us']:10.1f} us {one['count']:4} x  {one['kernel'][:100]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--device", help="cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--trace", type=Path, help="folder for Chrome traces")
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a toy: to see that it runs")
    options = parser.parse_args()
    device = find_device(options.device)
    draw = Draw(device, options.tiny, False, False)
    dtype = "float32" if options.tiny else "bfloat16"
    limits = Limits(1e10, {dtype: 1e11}) if options.tiny else measure(device, (getattr(torch, dtype),))
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.trace or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for batch in options.batch[:1] if options.tiny else options.batch:
            for row in measured(batch, draw, limits, dtype, folder):
                rows.append(row)
                say(row)
                if not (options.no_store or options.tiny):
                    path = stored.folder(device) / "kernels.json"
                    stored.write(path, device, {"limits": limits.as_dict(), "rows": rows})


if __name__ == "__main__":
    main()
