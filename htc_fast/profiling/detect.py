"""Inference from pixels to run lengths: how long each part takes, beside how long it would have to."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from htc_fast.data.pictures import frame_of
from htc_fast.detector import Detector, create_model
from htc_fast.device import autocast
from htc_fast.inference import Optimized, optimize
from htc_fast.profiling.limits import Limits, seconds
from htc_fast.profiling.meters import Clock, CostMeter, Need, median_round, spread
from htc_fast.ranges import watching

MODES = ("eager", "optimized")


@dataclass(frozen=True)
class Setting:
    """What is run.

    size       (short, long) side of the picture as the network sees it
    dtypes     "float32", "bfloat16": those that the device computes in
    modes      of MODES, and "peers"; or "train" alone
    rounds     timed, after one that is not
    overrides  as of `create_model`
    """

    device: torch.device
    models: tuple[str, ...]
    size: tuple[int, int] = (800, 1333)
    batch_size: int = 1
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    modes: tuple[str, ...] = MODES
    rounds: int = 3
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def train(self) -> bool:
        """Whether training steps are run, instead of inference."""
        return "train" in self.modes

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return frame_of(self.size)


@dataclass
class Run:
    """What was measured of one model in one mode and dtype.

    rounds     seconds per part, round by round
    needs      part -> Need
    images     per round
    whole      seconds of one CUDA graph, where the parts were measured without it
    memory_mb  peak of a training step
    """

    case: str
    mode: str
    dtype: str
    rounds: list[dict[str, float]]
    needs: dict[str, Need]
    images: int = 1
    whole: float | None = None
    memory_mb: float | None = None

    def row(self, limits: Limits) -> dict:
        """One line of the report, for JSON: totals and parts; the parts sum to the totals."""
        times = median_round(self.rounds)
        names = {**times, **self.needs}
        parts = {name: entry(times.get(name, 0.0), self.needs.get(name), limits, self.dtype) for name in names}
        if "mask stage 1" in parts and times.get("mask stages") and not times.get("mask stage 1"):
            parts["mask stages"] = _merged(parts, times["mask stages"])
        total = {key: sum(one[key] for one in parts.values()) for key in ("ms", "gflop", "mb", "limit_ms")}
        taken = total["ms"] if self.whole is None else self.whole * 1e3
        return {
            "case": self.case,
            "mode": self.mode,
            "dtype": self.dtype,
            "images_per_second": self.images * 1e3 / taken,
            **total,
            "spread_ms": spread(self.rounds) * 1e3,
            **({} if self.whole is None else {"graph_ms": taken}),
            "share": total["limit_ms"] / taken,
            **({} if self.memory_mb is None else {"memory_mb": self.memory_mb}),
            "parts": parts,
        }


def picture(size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of six tenths of the size, as COCO's pictures are to 800 x 1333."""
    rng = np.random.default_rng(0)
    height, width = (max(32, round(side * 0.6)) for side in size)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def build(name: str, setting: Setting) -> Detector:
    """A detector with random weights: every place for a detection is filled, so the work is the most there is."""
    torch.manual_seed(0)
    return create_model(name, **setting.overrides).eval().to(setting.device)


def profile_model(name: str, setting: Setting, say: Callable[[str], object]) -> Iterator[Run]:
    """Runs of one model, one after the other: each mode in each dtype.

    say  told what comes next
    """
    model = build(name, setting)
    say(f"{name}: counting")
    predict = prediction(model, setting)
    with CostMeter() as meter, watching(meter):
        predict()
    for mode in MODES:
        for dtype in setting.dtypes if mode in setting.modes else ():
            say(f"{name}: {mode}, {dtype}")
            rounds, whole = _timed(mode, dtype, model, setting)
            yield Run(name, mode, dtype, rounds, meter.needs, setting.batch_size, whole)


def recorded_model(name: str, setting: Setting) -> torch.profiler.profile:
    """The profiler after a second run."""
    predict = prediction(build(name, setting), setting)
    predict()
    with torch.profiler.profile() as recorded:
        predict()
    return recorded


def prediction(model: Detector | Optimized, setting: Setting) -> Callable[[], object]:
    """What goes from pixels to run lengths, once per call."""
    pictures = [picture(setting.size)] * setting.batch_size
    return lambda: model.predict(pictures, size=setting.size, batch_size=setting.batch_size, score_threshold=0.0)


def _timed(mode: str, dtype: str, model: Detector, setting: Setting) -> tuple[list[dict[str, float]], float | None]:
    """Rounds, and the seconds of a CUDA graph where there is one."""
    runner: Detector | Optimized = model
    if mode == "optimized":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = optimize(model, setting.padded, setting.batch_size, getattr(torch, dtype))
    predict = prediction(runner, setting)

    def run() -> None:
        with autocast(setting.device, dtype == "bfloat16" and runner is model):
            predict()

    run()
    whole = None
    if isinstance(runner, Optimized) and runner.buckets is not None:
        # A replayed graph has no parts: those are measured on the same network without one.
        whole = sorted(seconds(run, setting.device) for _ in range(setting.rounds))[setting.rounds // 2]
        runner.buckets = None
        run()
    return measured(run, setting.device, setting.rounds), whole


def measured(run: Callable[[], object], device: torch.device, rounds: int) -> list[dict[str, float]]:
    """Seconds of each part, round by round."""
    clock, found = Clock(device), []
    with watching(clock):
        for _ in range(rounds):
            clock.start()
            run()
            found.append(clock.stop())
    return found


def entry(taken: float, need: Need | None, limits: Limits, dtype: str) -> dict[str, Any]:
    """One part, in milliseconds, GFLOP, MB and the share of the limit reached (None where there is no time)."""
    need = need or Need()
    limit = need.seconds(limits, dtype)
    moved = need.moved * torch.finfo(getattr(torch, dtype)).bits / 32
    share = limit / taken if taken else None
    return {"ms": taken * 1e3, "gflop": need.flop / 1e9, "mb": moved / 1e6, "limit_ms": limit * 1e3, "share": share}


def _merged(parts: dict[str, dict], taken: float) -> dict:
    """Mask heads that ran in one call: their counts stay apart inside, and count once."""
    stages = {name: parts.pop(name) for name in list(parts) if name.startswith("mask stage ")}
    keys = ("gflop", "mb", "limit_ms")
    sums = {key: parts["mask stages"][key] + sum(one[key] for one in stages.values()) for key in keys}
    return {"ms": taken * 1e3, **sums, "share": sums["limit_ms"] / (taken * 1e3), "stages": stages}
