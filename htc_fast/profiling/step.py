"""A training step: data, forward by parts, backward, optimizer, memory; the loop's own `update`, watched."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from htc_fast.data.sample import make_sample_dataset
from htc_fast.profiling.detect import Run, Setting, measured
from htc_fast.profiling.meters import CostMeter
from htc_fast.ranges import watching
from htc_fast.training import Trainer, TrainingRun
from htc_fast.training.distributed import World
from htc_fast.training.optimizer import set_rate
from htc_fast.training.report import memory_mb
from htc_fast.training.run import DECIDED


def profile_step(name: str, setting: Setting, say: Callable[[str], object]) -> Iterator[Run]:
    """Steps of one model on the sample pictures, in the last of the dtypes.

    say  told what comes next
    """
    dtype = setting.dtypes[-1]
    say(f"{name}: preparing sample pictures")
    with _step(name, setting) as (step, images):
        say(f"{name}: counting")
        with CostMeter() as meter, watching(meter):
            step()
        say(f"{name}: {setting.rounds} steps, {dtype}")
        _forget_peak(setting.device)
        times = measured(step, setting.device, setting.rounds)
        yield Run(name, "train", dtype, times, meter.needs, images, memory_mb=memory_mb(setting.device))


def recorded_step(name: str, setting: Setting) -> torch.profiler.profile:
    """The profiler after a second step."""
    with _step(name, setting) as (step, _):
        step()
        with torch.profiler.profile() as recorded:
            step()
    return recorded


@contextlib.contextmanager
def _step(name: str, setting: Setting) -> Iterator[tuple[Callable[[], object], int]]:
    """A step by the paper's recipe that changes no weight, and its number of pictures; nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(
            model=name,
            data=make_sample_dataset(),
            pretrained=False,
            workers=0,
            image_size=setting.size,
            batch_size=setting.batch_size,
            amp=setting.dtypes[-1] == "bfloat16",
            # The sample has classes of its own.
            set={name: value for name, value in setting.overrides.items() if name not in DECIDED},
            out=Path(folder),
        )
        loop = Trainer(run, World(device=setting.device)).loop
        batches = loop.batches.stream()
        loop.model.train()
        set_rate(loop.optimizer, 0.0)
        yield lambda: loop.update(batches), loop.batches.batch_size * loop.recipe.accumulate


def _forget_peak(device: torch.device) -> None:
    """Start the peak of memory anew; on a CPU where Linux lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
