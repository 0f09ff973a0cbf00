"""How long a call takes: by the clock on a CPU; by events, with a cold L2 and from a CUDA graph on a GPU.

The clock is our own: torch.utils.benchmark adds two warm calls to each and gives a call of seconds a single round.
"""

import statistics
import time
from collections.abc import Callable

import torch

LARGE = 2e-2  # seconds: above it no cache is warm anyway, and launching is the smaller part
SHORT = 2e-4  # seconds: below it the clock is too coarse for a single call
BUDGET = 0.5  # seconds for the rounds of one call
INSIDE = 20  # calls in a graph, or in one round of a call too short for the clock


def sample(call: Callable, device: torch.device, budget: float = BUDGET) -> list[float]:
    """Seconds of single calls, warm; at least three, more if they fit into the budget. The call has run before."""
    if device.type == "cuda":
        return _events(call, _warm_up(call, budget))
    first = _clocked(call)
    if first > SHORT:
        return [first, *(_clocked(call) for _ in range(rounds(first, budget)))]
    return [_clocked(lambda: [call() for _ in range(INSIDE)]) / INSIDE for _ in range(rounds(first, budget) + 1)]


def summary(times: list[float]) -> dict[str, float]:
    """Median and the span of the middle half, in milliseconds."""
    quarters = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
    return {"median": _digits(statistics.median(times) * 1e3), "spread": _digits((quarters[2] - quarters[0]) * 1e3)}


def on_gpu(call: Callable, median: float, budget: float = BUDGET, waits: bool = False) -> dict[str, float]:
    """Milliseconds with a cold L2, and from a CUDA graph where the call is small and waits for nothing.

    median  seconds of a warm call
    waits   it is known to, in a library where torch does not see it
    """
    found = {}
    if median >= LARGE:
        return found
    from triton.testing import do_bench

    found["cold L2"] = _digits(do_bench(call, rep=int(400 * budget), return_mode="median"))
    if not waits and not _waits(call):
        replayed = _replayed(call)
        if replayed is not None:
            found["graph"] = _digits(replayed * 1e3)
    return found


def settled(call: Callable, device: torch.device) -> Callable:
    """The call, ended when the device is done: for a clock outside."""
    if device.type != "cuda":
        return call

    def run():
        call()
        torch.cuda.synchronize(device)

    return run


def rounds(first: float, budget: float) -> int:
    """How many more, after one that took `first` seconds: at least two."""
    return max(2, min(50, int(budget / max(first, 1e-6))))


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def _clocked(call: Callable) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _warm_up(call: Callable, budget: float) -> int:
    """Clocks and caches up to speed: at least 25 ms of calls; how many are then to be timed."""
    one = statistics.median(_events(call, 3))
    for _ in range(max(2, min(200, int(0.025 / max(one, 1e-6))))):
        call()
    return max(5, min(200, int(budget / max(one, 1e-6))))


def _events(call: Callable, count: int) -> list[float]:
    """Seconds of each call on the device, the host running ahead."""
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    torch.cuda.synchronize()
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def _waits(call: Callable) -> bool:
    """Whether the host waits for the device somewhere in the call, which a graph cannot hold.

    Found out before capture is tried: one that fails leaves random numbers and allocator in a state of their own.
    """
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return False


def _replayed(call: Callable) -> float | None:
    """Seconds of a call inside a CUDA graph, where launching costs nothing; None where it cannot be captured.

    The current stream is captured, which must be its own: a gradient runs on the stream of its forward.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(INSIDE):
                call()
        graph.replay()
        return statistics.median(_events(graph.replay, 20)) / INSIDE
    except RuntimeError:
        torch.cuda.synchronize()
        return None
