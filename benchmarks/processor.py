"""What benchmarks.processors measures of one class of processors in a process of its own, restricted to that class."""

import dataclasses
import itertools
import sys
from typing import Any

import torch

from benchmarks.detectors import TINY
from htc_fast.device import processor_class, supports
from htc_fast.ops import _onednn_int8
from htc_fast.profiling import limits
from htc_fast.profiling.detect import Run, Setting
from htc_fast.profiling.meters import Need
from htc_fast.profiling.peers import profile_peers
from htc_fast.profiling.step import profile_step

TYPES = torch.float32, torch.bfloat16, torch.int8
CPU = torch.device("cpu")


def about(tiny: bool, threads: int) -> dict[str, Any]:
    """Class, types, and limits as they are this minute."""
    torch.set_num_threads(threads)
    types = [str(dtype)[6:] for dtype in TYPES if supports(dtype, CPU)]
    if tiny:
        return {"class": processor_class(), "types": types, "limits": {"copy": 1e10, **dict.fromkeys(types, 1e11)}}
    top = limits.measure(CPU)
    eight = {"int8": int8_product()} if "int8" in types else {}
    return {"class": processor_class(), "types": types, "limits": {"copy": top.bandwidth, **top.products, **eight}}


def int8_product(side: tuple[int, int] = (100, 168)) -> float:
    """Operations per second in 8 bits: oneDNN's 3x3 convolution, faster than torch's matrix product."""
    images = torch.full((1, 256, *side), 100, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    geometry, scale = ((1, 1), (1, 1), (1, 1), 1), (1e4, 0)
    layer = _onednn_int8.pack(torch.randn(256, 256, 3, 3), None, 0.0, geometry, ("none", []), images.shape)
    call = lambda: _onednn_int8.run(images, 1.0, layer, scale, torch.float32)  # noqa: E731
    return 2 * 9 * 256**2 * side[0] * side[1] / limits.least(call, CPU)


def measured(size: tuple[int, int], tiny: bool, threads: int) -> dict[str, Any]:
    """One round of torchvision's Mask R-CNN as a whole, and of a training step of HTC R-50.

    size  (short, long) side of the picture
    """
    torch.set_num_threads(threads)
    floats = tuple(str(dtype)[6:] for dtype in TYPES if dtype.is_floating_point and supports(dtype, CPU))
    overrides: dict[str, Any] = dict(TINY) if tiny else {}
    setting = Setting(CPU, ("htc_r50",), size, 1, floats, rounds=1, overrides=overrides)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    # The first of the peers, torchvision's Mask R-CNN, in each type.
    rivals = [] if tiny else itertools.islice(profile_peers(setting, say, {}), len(floats))
    rows = [(run.case, run.dtype, [sum(one.values()) for one in run.rounds]) for run in rivals]
    (step,) = profile_step("htc_r50", setting, say)
    return {"rows": rows, "step": dataclasses.asdict(step)}


def step_of(found: list[dict[str, Any]], top: limits.Limits) -> dict[str, Any]:
    """The row of a training step: the fastest round of several processes."""
    rounds = [one for step in found for one in step["rounds"]]
    needs = {name: Need(**need) for name, need in found[0]["needs"].items()}
    fastest = min(rounds, key=lambda parts: sum(parts.values()))
    return Run(**{**found[0], "rounds": [fastest], "needs": needs}).row(top)
