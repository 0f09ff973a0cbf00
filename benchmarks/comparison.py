"""One case: everyone's result is checked before it is timed; who is absent is reported with the reason."""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import rivals, stored, timer
from htc_fast import ops
from htc_fast.ops import _backend, _native
from htc_fast.profiling.limits import Limits, device_name

# Operators whose results have a length that only the device knows: their kernels are waited for, in native code.
WAITING = "batched_nms", "nms", "soft_nms", "encode_masks", "encode_logits", "encode_prototypes", "encode", "mask_nms"


@dataclass(frozen=True)
class Comparison:
    """compare(case, calls, check, *, op, gigabytes, gflop, dtype, backend, verify, pictures), from `op` on optional

    calls      who -> callable, or Absent; the first is ours and goes to pytest-benchmark
    check      result of ours, result of another, who -> None, or an AssertionError
    op         whose backends are asked for; on a GPU each of them is timed
    gigabytes  that must move, and GFLOP that must be done: for the share of the device's limit
    backend    what to call ours, where no operator says it
    verify     result of ours -> None, or an AssertionError
    pictures   that one call works on
    returns    the row as `stored` describes it; None where pytest-benchmark is switched off
    """

    benchmark: object
    device: torch.device
    limits: Limits
    budget: float  # seconds for the rounds of one call

    def __call__(
        self,
        case,
        calls,
        check,
        *,
        op=None,
        gigabytes=None,
        gflop=None,
        dtype=torch.float32,
        backend=None,
        verify=None,
        pictures=None,
    ) -> dict | None:
        began = time.monotonic()
        (ours, call), *others = calls.items()
        others += [(f"htc_fast, {name}", forced(call, name)) for name in other_backends(op, self.device)]
        here, absent = self.checked(call, others, check, verify)
        times, waits = self.timed(call), op in WAITING
        if not times:
            return None
        milliseconds = {ours: self.entry(times, call, waits)}
        peak = self.peak()
        for who, rival in here.items():
            milliseconds[who] = self.entry(timer.sample(rival, self.device, self.budget), rival, waits)
        name = str(dtype)[6:]
        row = {"case": case, "device": device_name(self.device), "dtype": name}
        row |= {"backend": backend or backend_name(op, self.device), "milliseconds": milliseconds}
        row |= stored.rates(milliseconds[ours], self.limits, name, gigabytes, gflop)
        if pictures is not None:
            row |= {"pictures": pictures, "images/s": float(f"{pictures / milliseconds[ours]['median'] * 1e3:.4g}")}
        row |= peak | {"ratio": stored.ratios(milliseconds), "absent": absent, "date": str(datetime.date.today())}
        return row | {"seconds": round(time.monotonic() - began, 1)}

    def checked(self, call, others, check, verify) -> tuple[dict[str, Callable], dict[str, str]]:
        """Who is here and right, who is absent and why."""
        result, here, absent = call(), {}, {}
        if verify is not None:
            verify(result)
        for who, rival in others:
            found = _tried(rival)
            if isinstance(found, rivals.Absent):
                absent[who] = str(found)
                continue
            check(result, found, who)
            here[who] = rival
            del found
        return here, absent

    def timed(self, call: Callable) -> list[float]:
        """Seconds of ours, which has run before, seen by pytest-benchmark too; none where it is switched off."""
        gpu = self.device.type == "cuda"
        if gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        waited = timer.settled(call, self.device)
        began = time.perf_counter()
        waited()
        first = time.perf_counter() - began
        short = first <= timer.SHORT
        rounds = 3 if gpu else timer.rounds(first, self.budget)
        self.benchmark.pedantic(waited, rounds=rounds, iterations=timer.INSIDE if short else 1)
        if not self.benchmark.stats:
            return []
        if gpu:
            return timer.sample(call, self.device, self.budget)
        return sorted(self.benchmark.stats.stats.data) + [first] * (not short)

    def entry(self, times: list[float], call: Callable, waits: bool) -> dict[str, float]:
        """What is stored of someone's seconds."""
        made = timer.summary(times)
        gpu = self.device.type == "cuda"
        return made | timer.on_gpu(call, made["median"] / 1e3, self.budget, waits) if gpu else made

    def peak(self) -> dict[str, int]:
        """The most memory that ours took on a GPU."""
        if self.device.type != "cuda":
            return {}
        return {"peak MB": round(torch.cuda.max_memory_allocated(self.device) / 1e6)}


def _tried(rival):
    """The result of a rival, or why there is none."""
    if isinstance(rival, rivals.Absent):
        return rival
    try:
        return rival()
    except Exception as error:  # whatever another project's version stumbles over
        return rivals.Absent(f"failed: {rivals.first_line(error)}")


def backend_name(op: str | None, device: torch.device) -> str:
    """What ours runs on."""
    name = _backend.backend_for(op, torch.empty(0, device=device)) if op else "torch"
    return "oneDNN, through torch" if name == "cpp" and op in _backend.from_torch else name


def other_backends(op: str | None, device: torch.device) -> list[str]:
    """On a GPU: which other backends of ours do it."""
    if op is None or device.type != "cuda":
        return []
    chosen = _backend.backend_for(op, torch.empty(0, device=device))
    native = op in _backend.from_torch or f"htc_fast::{op}" in _native.cuda_operators
    names = [name for name in ("cuda", "triton") if name in _backend.available[op] and name != chosen]
    return [name for name in names if name == "triton" or native]


def forced(call: Callable, backend: str) -> Callable:
    """The call on that backend."""

    def run():
        with ops.use_backend(backend):
            return call()

    return run
