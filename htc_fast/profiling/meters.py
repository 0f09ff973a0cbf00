"""Two who watch the parts: one counts what they need, one measures what they take."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from htc_fast.profiling.costs import cost
from htc_fast.profiling.limits import Limits

REST = "rest"  # what lies in no part


@dataclass
class Need:
    """Of one part: operations, bytes, and its calls one by one, which the roofline is a sum over."""

    flop: float = 0.0
    moved: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)

    def seconds(self, limits: Limits, dtype: str = "float32") -> float:
        """Roofline: each call at the rate of the product or of the copy, whichever is slower.

        dtype  counted was float32: smaller types move fewer bytes
        """
        share = getattr(torch, dtype).itemsize / 4
        return sum(limits.seconds(flop, moved * share, dtype) for flop, moved in self.calls)


class CostMeter(TorchDispatchMode):
    """Counts every operator that runs inside the block, part by part.

    with CostMeter() as meter, watching(meter):
        model.detect(images, image_sizes)
    """

    def __init__(self):
        super().__init__()
        self.needs: dict[str, Need] = {}
        self.inside: list[str] = []

    def begin(self, name: str) -> None:
        self.inside.append(name)

    def end(self, name: str) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        here = self.inside[-1] if self.inside else REST
        for flop, moved, stage in cost(operator, args, kwargs or {}, result):
            need = self.needs.setdefault(here if stage is None else f"mask stage {stage}", Need())
            need.flop += flop
            need.moved += moved
            if flop or moved:
                need.calls.append((flop, moved))
        return result


class Clock:
    """Measures every part once; what lies inside another part is not counted twice, so the parts sum to the total.

    On CUDA by events: nothing waits before `stop`.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.inside: list[str] = []
        self.marks: list[tuple[Any, str]] = []

    def begin(self, name: str) -> None:
        self._mark()
        self.inside.append(name)

    def end(self, name: str) -> None:
        self._mark()
        self.inside.pop()

    def stop(self) -> dict[str, float]:
        """Seconds of each part since `start`, in the order in which they began, and of the rest."""
        self._mark()
        if self.cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for (before, _), (after, name) in zip(self.marks, self.marks[1:]):
            taken = before.elapsed_time(after) / 1e3 if self.cuda else after - before
            found[name] = found.get(name, 0.0) + taken
        return found

    def start(self) -> None:
        self.marks = []
        if self.cuda:
            torch.cuda.synchronize()
        self._mark()

    def _mark(self) -> None:
        now: Any = torch.cuda.Event(enable_timing=True) if self.cuda else time.perf_counter()
        if self.cuda:
            now.record()
        self.marks.append((now, self.inside[-1] if self.inside else REST))


def median_round(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The round whose total is the median: its parts belong together."""
    ordered = sorted(rounds, key=lambda parts: sum(parts.values()))
    return ordered[(len(ordered) - 1) // 2]


def spread(rounds: list[dict[str, float]]) -> float:
    """Span of the middle half of the rounds' totals."""
    totals = [sum(parts.values()) for parts in rounds]
    if len(totals) < 2:
        return 0.0
    first, _, third = statistics.quantiles(totals, n=4, method="inclusive")
    return third - first
