"""The detector on a GPU: milliseconds per call from its CUDA graph, and which kernels one replay runs.

    python scripts/gpu_profile.py --out FOLDER [--batch 1 8] [--dry]

FOLDER/detector.json has a row for each batch size, written as soon as it is known: what was timed, how many kernels a
replay has, and their table, longest first; FOLDER/trace_<batch>.json is for chrome://tracing. --dry: tiny, on a CPU.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import torch

import htc_fast
from htc_fast.profiling.limits import device_name

ROUNDS = 50


def detector(batch: int, dry: bool):
    """An optimized HTC in bf16 and its inputs; bf16 is imitated on a CPU, so --dry takes float32."""
    torch.manual_seed(0)
    device, (height, width) = ("cpu", (64, 96)) if dry else ("cuda", (800, 1344))
    model = htc_fast.create_model("htc_r50").eval().to(device)
    fast = htc_fast.optimize(model, (height, width), batch, torch.float32 if dry else torch.bfloat16)
    images = torch.randn(batch, 3, height, width, device=device)
    return fast, images, torch.tensor([[height, width]] * batch, device=device)


def milliseconds(call, on_gpu: bool, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        found.append((time.perf_counter() - began) * 1e3)
    return found


def kernels(call, on_gpu: bool, trace: Path) -> list[dict]:
    """Of one call: name, how often, microseconds in all; longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    profile.export_chrome_trace(str(trace))
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    events = [event for event in profile.events() if event.device_type == kind]
    counts, times = Counter(event.name for event in events), Counter()
    for event in events:
        times[event.name] += event.time_range.elapsed_us()
    return [{"kernel": name, "count": counts[name], "us": round(us, 2)} for name, us in times.most_common()]


def measured(batch: int, out: Path, dry: bool) -> dict:
    fast, images, sizes = detector(batch, dry)
    on_gpu, call = images.is_cuda, lambda: fast.detect(images, sizes)
    for _ in range(1 if dry else 3):
        call()
    times = milliseconds(call, on_gpu, 1 if dry else ROUNDS)
    table = kernels(call, on_gpu, out / f"trace_{batch}.json")
    return {
        "device": device_name(images.device),
        "batch": batch,
        "ms": statistics.median(times),
        "ms per image": statistics.median(times) / batch,
        "fastest ms": min(times),
        "kernels": sum(row["count"] for row in table),
        "us in kernels": round(sum(row["us"] for row in table), 1),
        "table": table,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for batch in options.batch[:1] if options.dry else options.batch:
        rows.append(measured(batch, options.out, options.dry))
        (options.out / "detector.json").write_text(json.dumps(rows, indent=1) + "\n")
        row = rows[-1]
        print(f"batch {batch}: {row['ms']:.3f} ms a call, {row['ms per image']:.3f} per image, "
              f"{row['kernels']} kernels of {row['us in kernels']} us in a replay", flush=True)  # fmt: skip
        for one in row["table"][:40]:
            print(f"{one['us']:10.1f} us {one['count']:5} x  {one['kernel'][:110]}", flush=True)


if __name__ == "__main__":
    main()
