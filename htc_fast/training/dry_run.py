"""A dry run: one step of everything that a run does, to see that it works, how long it will take and in what memory.

Weights are changed by its steps, and nothing stays on the disk.
"""

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets
from htc_fast.training.distributed import World
from htc_fast.training.evaluation import PAGE, Forecast, by_stage
from htc_fast.training.loop import Loop
from htc_fast.training.metrics import EVALUATIONS, LOSSES, SHOWN, append_row
from htc_fast.training.plots import draw_curves
from htc_fast.training.report import memory_mb, writing

LEAST, MOST, LONG = 3, 20, 10.0  # steps that are timed: at least, at most, and seconds after which there are no more
Batch = tuple[Tensor, Tensor, Targets, list[str]]


@dataclass(frozen=True)
class Rehearsal:
    """What a run will take. Times are in seconds, memory in MB.

    frame        pictures, height and width of the largest batch, of this process
    steps, step  how many are to come, and the time of one
    starting     what the first steps take beyond that
    evaluations, evaluation, checkpoints, checkpoint  as with steps
    ending       the picture and the page at the end
    memory_mb    the peak so far: allocated on a GPU, or of this process
    disk_mb      of the checkpoints that are kept and both files of weights
    free_mb      what the disk has left for them
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
    ending: float = 0.0
    free_mb: float = math.inf

    @property
    def seconds(self) -> float:
        """The whole run, without a limit of time."""
        return (
            self.starting
            + self.steps * self.step
            + self.evaluations * self.evaluation
            + self.checkpoints * self.checkpoint
            + self.ending
        )

    def __str__(self) -> str:
        count, height, width = self.frame
        where = "allocated on the GPU" if self.device == "cuda" else "of this process (peak RSS)"
        cut = room = ""
        if self.free_mb < self.disk_mb:
            room = f", but only {self.free_mb / 1024:.2f} GB are free there: make room, or lower --keep"
        if self.minutes is not None and self.seconds > 60 * self.minutes:
            cut = f"; the limit of {self.minutes:g} minutes ends it sooner, with the schedule fitted to it"
        return (
            f"dry run: loading, steps, the largest batch ({count} x {height} x {width}), "
            f"{'an evaluation of a few pictures, ' if self.evaluations else ''}and a checkpoint work\n"
            f"time: {_text(self.seconds)}: {self.steps} steps of {self.step:.3g} s, {self.evaluations} evaluations of "
            f"{self.evaluation:.3g} s, {self.checkpoints} checkpoints of {self.checkpoint:.2g} s, and "
            f"{self.ending:.2g} s at the end{cut}\n"
            f"memory: {self.memory_mb / 1024:.2f} GB {where}; disk: {self.disk_mb / 1024:.2f} GB{room}"
        )


def rehearse(loop: Loop, largest: Batch, forecast: Forecast | None = None) -> Rehearsal:
    """Carry out one step of everything; the loop is of no use for training afterwards.

    loop      as made, or resumed: what is left of it counts
    largest   a batch of this process, on the host
    forecast  of its evaluations; None: there are none
    raises    UserError, or a lack of memory, as the run itself would
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
    step, starting, terms = _steps(loop, largest)
    evaluation = picture = 0.0
    if forecast is not None and evaluations:
        with _finding_all(loop.model):
            evaluation = world.max(max(forecast(loop.model) - forecast.ending, 0.0))
    with _beside(loop.folder) as folder:
        free = shutil.disk_usage(folder).free / 2**20 + _size(loop.folder)
        saving, size = _checkpoint(loop, folder)
        if evaluations:
            curves, picture = _drawings(loop, folder, terms)
            evaluation, picture = evaluation + curves, picture + PAGE
    if forecast is not None:
        picture += by_stage(loop.model, world, evaluation, steps * step + evaluations * evaluation)
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
        ending=picture,
        free_mb=free,
    )


def _steps(loop: Loop, largest: Batch) -> tuple[float, float, list[str]]:
    """Seconds of a usual step, with its loading, what the first ones took beyond theirs, and the loss terms' names."""
    count, world = loop.recipe.taken(loop.at, len(loop.batches)), loop.world
    loop.model.train()
    batches = loop.batches.stream(loop.at.epoch, loop.at.batch)
    terms: list[str] = []
    _timed(world, lambda: terms.extend(loop.update(iter([largest] * count))[0]))
    first = _timed(world, lambda: loop.update(batches))
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < LONG):
        times.append(_timed(world, lambda: loop.update(batches)))
    loop.alarm.settle()
    mean = sum(times) / len(times)
    return mean, max(first - mean, 0.0), terms


@contextlib.contextmanager
def _finding_all(model: HTC) -> Iterator[None]:
    """As many objects in each picture as there may be: fresh weights find none, whose masks would take no time."""
    config = model.config
    model.config = replace(config, score_threshold=0.0)
    try:
        yield
    finally:
        model.config = config


@contextlib.contextmanager
def _beside(run: Path) -> Iterator[Path]:
    """A folder beside the run's, on the same disk, which goes again."""
    place = next(one for one in (run, *run.absolute().parents) if one.is_dir())
    place = place if place != run else place.absolute().parent
    with writing(run), tempfile.TemporaryDirectory(prefix=".dry-run-", dir=place) as folder:
        yield Path(folder)


def _checkpoint(loop: Loop, folder: Path) -> tuple[float, float]:
    """Seconds of writing one, and MB of all that are kept."""
    before, loop.checkpoints = loop.checkpoints, folder
    try:
        seconds = _timed(loop.world, loop.save)
    finally:
        loop.checkpoints = before
    sizes = {path.suffix: path.stat().st_size / 2**20 for path in folder.iterdir()}
    return seconds, loop.recipe.keep * sum(sizes.values()) + 2 * sizes.get(".safetensors", 0.0)


def _drawings(loop: Loop, folder: Path, terms: list[str]) -> tuple[float, float]:
    """Seconds of the curves, and of the picture at the end."""
    for iteration in (1, 2):
        append_row(folder / LOSSES, iteration, dict.fromkeys(("loss", *terms), 1.0))
        append_row(folder / EVALUATIONS, iteration, dict.fromkeys(SHOWN, 0.5))

    def curves() -> None:
        if loop.world.is_main:
            draw_curves(folder / LOSSES, folder / EVALUATIONS, folder / "curves.png")

    def picture() -> None:
        if loop.world.is_main and loop.picture is not None:
            loop.picture(loop.model.eval(), folder / "predictions.png", math.inf)

    _timed(loop.world, curves)  # which imports what draws them
    return _timed(loop.world, curves), _timed(loop.world, picture)


def _size(run: Path) -> float:
    """MB of what is there of the run already, which it writes over."""
    return sum(path.stat().st_size for path in (*run.glob("*.safetensors"), *run.glob("checkpoints/*"))) / 2**20


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
