"""What benchmarks.processors measures of one class of processors in a process of its own, restricted to that class."""

import itertools
import sys
from typing import Any

import torch

from benchmarks import timer
from benchmarks.detectors import TINY
from htc_fast.device import processor_class, supports
from htc_fast.profiling import limits
from htc_fast.profiling.detect import Setting
from htc_fast.profiling.peers import profile_peers
from htc_fast.profiling.step import profile_step

TYPES = torch.float32, torch.bfloat16, torch.int8
CPU = torch.device("cpu")


def measured(size: tuple[int, int], tiny: bool, threads: int) -> dict[str, Any]:
    """Class, types, limits, torchvision's Mask R-CNN as a whole, and a training step of HTC R-50.

    size  (short, long) side of the picture
    """
    torch.set_num_threads(threads)
    top = limits.measure(CPU)
    types = [str(dtype)[6:] for dtype in TYPES if supports(dtype, CPU)]
    floats = tuple(name for name in types if name in top.products)
    overrides: dict[str, Any] = dict(TINY) if tiny else {}
    setting = Setting(CPU, ("htc_r50",), size, 1, floats, rounds=1 if tiny else 2, overrides=overrides)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    # The first of the peers, torchvision's Mask R-CNN, in each type.
    rivals = [] if tiny else itertools.islice(profile_peers(setting, say, {}), len(floats))
    rows = [whole(run.case, run.dtype, run.rounds) for run in rivals]
    (step,) = profile_step("htc_r50", setting, say)
    top = top.best(limits.measure(CPU))
    about = {"class": processor_class(), "types": types, "limits": {"copy": top.bandwidth, **top.products}}
    return {**about, "rows": rows, "train": step.row(top)}


def whole(who: str, dtype: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """A rival's row without parts."""
    seconds = [sum(one.values()) for one in rounds]
    return {"runtime": who, "dtype": dtype, "milliseconds": timer.summary(seconds)}
