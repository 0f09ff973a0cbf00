"""A training step: data, forward by parts, backward, optimizer, memory; the loop's own `update`, watched."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from htc_fast.profiling.detect import Run, measured
from htc_fast.profiling.meters import CostMeter
from htc_fast.ranges import watching
from htc_fast.training.loop import Trainer
from htc_fast.training.optimizer import set_rate
from htc_fast.training.report import memory_mb


def profile_step(trainer: Trainer, dtype: str, rounds: int, say: Callable[[str], None] = lambda text: None):
    """Run some steps of a training run.

    trainer  not started
    dtype    what autocast computes in, for the limit
    returns  a Run and the peak memory in MB
    """
    name = trainer.model.config.name
    batches = trainer.batches.stream()
    trainer.model.train()
    set_rate(trainer.optimizer, 0.0)
    say(f"{name}: counting")
    with CostMeter() as meter, watching(meter):
        trainer.update(batches)
    say(f"{name}: {rounds} steps, {dtype}")
    device = trainer.world.device
    forget_peak(device)
    times = measured(lambda: trainer.update(batches), device, rounds)
    images = trainer.batches.batch_size * trainer.recipe.accumulate
    return Run(name, "train", dtype, times, meter.needs, images), memory_mb(device)


def forget_peak(device: torch.device) -> None:
    """Start the peak of memory anew; on a CPU where Linux lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def recorded_step(trainer: Trainer) -> torch.profiler.profile:
    """The profiler after a second step."""
    batches = trainer.batches.stream()
    trainer.model.train()
    set_rate(trainer.optimizer, 0.0)
    trainer.update(batches)
    with torch.profiler.profile() as recorded:
        trainer.update(batches)
    return recorded
