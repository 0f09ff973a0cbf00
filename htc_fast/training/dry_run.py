"""A dry run: one step of everything that a run does, to see that it works, how long it will take and in what memory.

Weights are changed by its steps, and nothing stays on the disk.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from htc_fast.models.structures import Targets
from htc_fast.training.distributed import World
from htc_fast.training.loop import Loop
from htc_fast.training.report import memory_mb, writing

LEAST, MOST, LONG = 3, 20, 10.0  # steps that are timed: at least, at most, and seconds after which there are no more
Batch = tuple[Tensor, Tensor, Targets, list[str]]


@dataclass(frozen=True)
class Rehearsal:
    """What a run will take. Times are in seconds, memory in MB.

    frame        pictures, height and width of the largest batch, of this process
    steps, step  how many are to come, and the time of one
    starting     what the first steps take beyond that
    evaluations, evaluation, checkpoints, checkpoint  as with steps; the picture at the end counts as evaluated
    memory_mb    the peak so far: allocated on a GPU, or of this process
    disk_mb      of the checkpoints that are kept and both files of weights
    minutes      the limit of time; None: there is none
    """

    device: str
    frame: tuple[int, int, int]
    steps: int
    step: float
    starting: float
    evaluations: int
    evaluation: float
    checkpoints: int
    checkpoint: float
    memory_mb: float
    disk_mb: float
    minutes: float | None = None

    @property
    def seconds(self) -> float:
        """The whole run, without a limit of time."""
        return (
            self.starting
            + self.steps * self.step
            + self.evaluations * self.evaluation
            + self.checkpoints * self.checkpoint
        )

    def __str__(self) -> str:
        count, height, width = self.frame
        where = "allocated on the GPU" if self.device == "cuda" else "of this process (peak RSS)"
        cut = ""
        if self.minutes is not None and self.seconds > 60 * self.minutes:
            cut = f"; the limit of {self.minutes:g} minutes ends it sooner, with the schedule fitted to it"
        return (
            f"dry run: loading, steps, the largest batch ({count} x {height} x {width}), "
            f"{'an evaluation of a few pictures, ' if self.evaluations else ''}and a checkpoint work\n"
            f"time: {_text(self.seconds)}: {self.steps} steps of {self.step:.3g} s, {self.evaluations} evaluations of "
            f"{self.evaluation:.3g} s, {self.checkpoints} checkpoints of {self.checkpoint:.2g} s{cut}\n"
            f"memory: {self.memory_mb / 1024:.2f} GB {where}; disk: {self.disk_mb / 1024:.2f} GB"
        )


def rehearse(loop: Loop, largest: Batch) -> Rehearsal:
    """Carry out one step of everything; the loop is of no use for training afterwards.

    loop     as made, or resumed: what is left of it counts
    largest  a batch of this process, on the host
    raises   UserError, or a lack of memory, as the run itself would
    """
    recipe, world, length = loop.recipe, loop.world, len(loop.batches)
    whole = recipe.steps(length)
    steps = math.ceil(max(1 - recipe.share(loop.at, length), 0.0) * whole)
    epochs, done = whole * recipe.accumulate / length, loop.at.epoch
    evaluations = 0
    if loop.evaluate is not None:
        every = recipe.evaluate_every
        evaluations = 1 + (max(math.ceil(epochs / every) - 1 - done // every, 0) if every else 0)
    saves = evaluations + (steps // recipe.save_every if recipe.save_every else 0) + (not evaluations)
    step, starting = _steps(loop, largest)
    evaluation = 0.0 if loop.pace.forecast is None or not evaluations else world.max(loop.pace.forecast())
    saving, size = _checkpoint(loop)
    return Rehearsal(
        device=world.device.type,
        frame=(len(largest[0]), *largest[0].shape[2:]),
        steps=steps,
        step=step,
        starting=starting,
        evaluations=evaluations,
        evaluation=evaluation,
        checkpoints=saves,
        checkpoint=saving,
        memory_mb=world.max(memory_mb(world.device)),
        disk_mb=size,
        minutes=recipe.minutes,
    )


def _steps(loop: Loop, largest: Batch) -> tuple[float, float]:
    """Seconds of a usual step, with its loading, and what the first ones took beyond theirs."""
    count, world = loop.recipe.taken(loop.at, len(loop.batches)), loop.world
    loop.model.train()
    batches = loop.batches.stream(loop.at.epoch, loop.at.batch)
    _timed(world, lambda: loop.update(iter([largest] * count)))
    first = _timed(world, lambda: loop.update(batches))
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < LONG):
        times.append(_timed(world, lambda: loop.update(batches)))
    loop.alarm.settle()
    mean = sum(times) / len(times)
    return mean, max(first - mean, 0.0)


def _checkpoint(loop: Loop) -> tuple[float, float]:
    """Seconds of writing one, and MB of all that are kept; in a folder beside the run's, which goes again."""
    place = next(one for one in (loop.folder, *loop.folder.absolute().parents) if one.is_dir())
    place = place if place != loop.folder else place.absolute().parent
    with writing(loop.folder), tempfile.TemporaryDirectory(prefix=".dry-run-", dir=place) as folder:
        before, loop.checkpoints = loop.checkpoints, Path(folder)
        try:
            seconds = _timed(loop.world, loop.save)
        finally:
            loop.checkpoints = before
        sizes = {path.suffix: path.stat().st_size / 2**20 for path in Path(folder).iterdir()}
    return seconds, loop.recipe.keep * sum(sizes.values()) + 2 * sizes.get(".safetensors", 0.0)


def _timed(world: World, work: Callable[[], object]) -> float:
    """Seconds until the device has done it, of the slowest process."""
    began = time.monotonic()
    work()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return world.max(time.monotonic() - began)


def _text(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"about {seconds:.0f} s"
    return f"about {minutes:.0f} minutes" if minutes < 120 else f"about {minutes / 60:.1f} hours"
