"""The training loop: steps, checkpoints, evaluation, and a clean way out of every trouble.

All randomness is a function of (seed, rank, iteration), so a stopped run goes on as if never stopped.
"""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from htc_fast.criterion.losses import losses
from htc_fast.device import autocast
from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets
from htc_fast.ranges import part
from htc_fast.training import checkpoint
from htc_fast.training.batches import Batches
from htc_fast.training.distributed import World
from htc_fast.training.monitor import Alarm, Window, check_weights
from htc_fast.training.optimizer import make_optimizer, set_rate
from htc_fast.training.recipe import Position, Recipe
from htc_fast.training.report import Report, memory_mb, writing

Model = TypeVar("Model", bound=HTC)
SCORE = "mask_AP"
ONE_REQUEST = 1.0  # seconds within which signals are one wish to stop


class Step(nn.Module):
    """Images to loss terms, as a module that DistributedDataParallel can wrap."""

    def __init__(self, model: HTC):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor, targets: Targets) -> dict[str, Tensor]:
        return losses(self.model, images, image_sizes, targets)


class Loop(Generic[Model]):
    """One run over one model.

    batches   of (images, image_sizes, targets, names of the images)
    evaluate  model -> {"mask_AP": 0.4, ...}, called in all processes; None: never
    picture   called with (model, path of a PNG) at the end; None: no picture
    """

    def __init__(
        self,
        model: Model,
        batches: Batches,
        recipe: Recipe,
        folder: str | Path,
        world: World | None = None,
        evaluate: Callable[[Model], dict[str, float]] | None = None,
        picture: Callable[[Model, Path], None] | None = None,
    ):
        self.world = world or World()
        self.model = model.to(self.world.device).to(memory_format=torch.channels_last)
        self.batches, self.recipe, self.folder = batches, recipe, Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.evaluate, self.picture = evaluate, picture
        self.optimizer = make_optimizer(model, recipe.optimizer, recipe.schedule.rate, recipe.weight_decay)
        self.step: nn.Module = Step(model)
        if self.world.size > 1:
            # A semantic branch that only helps by its loss has features that nothing uses.
            unused = model.config.semantic == "loss"
            self.step = nn.parallel.DistributedDataParallel(self.step, find_unused_parameters=unused)
        self.at = Position()
        self.alarm = Alarm()
        self.report: Report | None = None
        self.asked = self.stopping = False
        self.saved = -1

    def resume(self) -> bool:
        """Continue from the newest checkpoint in the folder, if there is one."""
        found = checkpoint.whole(self.checkpoints)
        if found:
            state = checkpoint.load(found[-1], self.model)
            self.optimizer.load_state_dict(state["optimizer"])
            self.at = Position(**state["position"])
            self.saved = self.at.iteration
            # "feed" is what files of version 0.1 call it.
            if state["feed"] != self._batches_shape() and self.at.batch:
                print("the data, batch size or number of processes changed, so this epoch starts again.")
                self.at = replace(self.at, batch=0)
        return bool(found)

    def run(self) -> Position:
        """Train until the recipe's end or until asked to stop; save, and at the end evaluate and draw."""
        self.report = Report(self.folder, self.at.iteration) if self.world.is_main else None
        self.started = time.monotonic() - self.at.seconds
        try:
            with _signals(self):
                self._train()
                if self.saved != self.at.iteration:
                    self._save()
            if self.stopping:
                self._say(f"stopped after iteration {self.at.iteration} and saved: --resume continues.")
            else:
                self._finish()
        finally:
            if self.report is not None:
                self.report.close()
        return self.at

    def _share(self) -> float:
        seconds = time.monotonic() - self.started
        if self.recipe.minutes is not None:
            seconds = self.world.max(seconds)
        return self.recipe.share(self.at.iteration, len(self.batches), seconds)

    def _train(self) -> None:
        """Steps until the run's end, or until asked to stop."""
        batches, window = self.batches.stream(self.at.epoch, self.at.batch), Window()
        self.model.train()
        share = self._share()
        while share < 1 and not self.stopping:
            set_rate(self.optimizer, self.recipe.schedule(self.at.iteration, share))
            window.add(*self.update(batches))
            epochs, batch = divmod(self.at.batch + self.recipe.accumulate, len(self.batches))
            self.at = Position(self.at.iteration + 1, self.at.epoch + epochs, batch, time.monotonic() - self.started)
            share = self._share()
            self._after_step(window, share, epochs > 0)

    def update(self, batches: Iterator) -> tuple[dict[str, Tensor], int]:
        """One update of the weights; returns the mean loss terms and how many images all processes saw."""
        recipe, seen = self.recipe, 0
        total: dict[str, Tensor] = {}
        seed = (recipe.seed * 1_000_003 + self.world.rank) * 1_000_003 + self.at.iteration
        torch.manual_seed(seed % 2**63)
        for batch in range(recipe.accumulate):
            with part("data"):
                images, image_sizes, targets, names = self._fetch(batches)
                images = images.to(self.world.device, non_blocking=True, memory_format=torch.channels_last)
                image_sizes = image_sizes.to(self.world.device, non_blocking=True)
                targets = targets.to(self.world.device, non_blocking=True)
            waits = self.world.size > 1 and batch < recipe.accumulate - 1
            step: Any = self.step  # wrapped where there are several processes
            with step.no_sync() if waits else contextlib.nullcontext():
                with part("forward"), self._autocast():
                    terms = step(images, image_sizes, targets)
                self.alarm.look(terms, self.at.iteration, names)
                with part("backward"):
                    (sum(terms.values()) / recipe.accumulate).backward()
            for name, value in terms.items():
                share = value.detach() / recipe.accumulate
                total[name] = total[name] + share if name in total else share
            seen += len(images)
        with part("optimizer"):
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return total, seen * self.world.size

    def _fetch(self, batches: Iterator) -> tuple[Tensor, Tensor, Targets, list[str]]:
        try:
            return next(batches)
        except UserError:
            # One bad picture must not cost the hours since the last checkpoint; alone, as the others would wait.
            if self.world.size == 1 and self.at.iteration > max(self.saved, 0):
                self._save()
            raise

    def _after_step(self, window: Window, share: float, epoch_ended: bool) -> None:
        recipe, iteration = self.recipe, self.at.iteration
        # Processes may be asked to stop at different steps; they agree every tenth.
        if self.world.size == 1 or iteration % 10 == 0:
            self.stopping = self.world.any(self.asked)
        if (iteration % recipe.log_every == 0 or share >= 1) and self.report is not None:
            numbers = window.flush()
            numbers["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            numbers["memory_mb"] = memory_mb(self.world.device)
            self.report.losses(iteration, numbers)
            self.report.progress(share, self.at.epoch, iteration, numbers)
        evaluates = epoch_ended and recipe.evaluate_every and self.at.epoch % recipe.evaluate_every == 0
        if share < 1 and (evaluates or (recipe.save_every and iteration % recipe.save_every == 0)):
            self._save()
        if share < 1 and evaluates:
            self._evaluate()
            self.model.train()
            window.restart()

    def _autocast(self) -> torch.autocast:
        return autocast(self.world.device, self.recipe.amp)

    def _batches_shape(self) -> list[int]:
        return [len(self.batches), self.world.size]

    def _save(self) -> None:
        """Write a checkpoint, if the losses and weights so far are finite."""
        self.alarm.settle()
        check_weights(self.model, self.at.iteration)
        self.saved = self.at.iteration
        if self.world.is_main:
            state = {
                "optimizer": self.optimizer.state_dict(),
                "position": asdict(self.at),
                "feed": self._batches_shape(),
            }
            checkpoint.save(self.checkpoints, self.at.iteration, self.model, state, self.recipe.keep)
        self.world.barrier()

    def _evaluate(self) -> None:
        """Score the model on the validation images; the best weights are kept as best.safetensors."""
        if self.evaluate is None:
            return
        with torch.no_grad(), self._autocast():
            numbers = self.evaluate(self.model.eval())
        if self.report is not None:
            self.report.evaluation(self.at.iteration, numbers)
            best = self.folder / "best.json"
            if not best.exists() or numbers[SCORE] > json.loads(best.read_text())[SCORE]:
                checkpoint.write_whole(self.folder / "best.safetensors", checkpoint.weights_bytes(self.model))
                checkpoint.write_whole(best, json.dumps({"iteration": self.at.iteration, **numbers}).encode())
        self.world.barrier()

    def _finish(self) -> None:
        self._evaluate()
        if not self.world.is_main:
            return
        final = self.folder / "model.safetensors"
        checkpoint.write_whole(final, checkpoint.weights_bytes(self.model))
        if self.picture is not None:
            self.model.eval()
            with writing(self.folder / "predictions.png"):
                self.picture(self.model, self.folder / "predictions.png")
        minutes = self.at.seconds / 60
        self._say(f"finished after {self.at.iteration} iterations in {minutes:.1f} minutes: {final}")

    def _say(self, sentence: str) -> None:
        if self.report is not None:
            self.report.say(sentence)


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to stop after this step; a second time they stop it at once.

    Under torchrun one Ctrl-C comes twice, from the terminal and from torchrun.
    """
    first = None

    def ask(number: int, frame: Any) -> None:
        nonlocal first
        first = time.monotonic() if first is None else first
        if time.monotonic() - first > ONE_REQUEST:
            raise KeyboardInterrupt
        loop.asked = True

    previous = {}
    # Only the main thread may set handlers; elsewhere the caller keeps its own.
    with contextlib.suppress(ValueError):
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
