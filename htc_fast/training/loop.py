"""The training loop: steps, checkpoints, evaluation, and a clean way out of every trouble.

All randomness is a function of (seed, rank, iteration), so a stopped run goes on as if never stopped.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from htc_fast.device import autocast
from htc_fast.errors import UserError
from htc_fast.models.htc import HTC
from htc_fast.models.structures import Targets
from htc_fast.ranges import part
from htc_fast.training import checkpoint
from htc_fast.training.batches import Batches
from htc_fast.training.best import keep_best
from htc_fast.training.callbacks import Callback
from htc_fast.training.distributed import World
from htc_fast.training.ema import Average
from htc_fast.training.folder import held
from htc_fast.training.graphs import Graphs, Learn
from htc_fast.training.interrupts import heard
from htc_fast.training.monitor import Alarm, Window, check_weights
from htc_fast.training.optimizer import full_rate, make_optimizer, set_rate
from htc_fast.training.pace import Pace, ended
from htc_fast.training.patience import Patience
from htc_fast.training.recipe import Position, Recipe
from htc_fast.training.report import Report, memory_mb, writing
from htc_fast.training.resume import nothing_left, restore, state_of
from htc_fast.training.step import add, fetch, learn, make_step, seed

Model = TypeVar("Model", bound=HTC)


class Loop(Generic[Model]):
    """One run over one model.

    batches   of (images, image_sizes, targets, names of the images)
    evaluate  model -> {"mask_AP": 0.4, ...}, called in all processes; None: never
    picture   (model, path of a PNG, seconds that it may take) -> what there is to say of it, at the end; None: none
    forecast  model -> seconds that both will take; asked where minutes are limited, in all processes
    spent     seconds before the loop was made that count too
    about     name -> what the data are and how they are fed; on resume, what differs is said
    settings  name -> what else callbacks are told of the run
    """

    def __init__(
        self,
        model: Model,
        batches: Batches,
        recipe: Recipe,
        folder: str | Path,
        world: World | None = None,
        evaluate: Callable[[Model], dict[str, float]] | None = None,
        picture: Callable[[Model, Path, float], str] | None = None,
        forecast: Callable[[Model], float] | None = None,
        spent: float = 0.0,
        about: dict[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        settings: dict[str, Any] | None = None,
    ):
        self.world = world or World()
        self.model = model.to(self.world.device).to(memory_format=torch.channels_last)
        self.batches, self.recipe, self.folder = batches, recipe, Path(folder)
        self.checkpoints, self.evaluate, self.picture = self.folder / "checkpoints", evaluate, picture
        rates = recipe.schedule.rate, recipe.weight_decay, recipe.no_decay, recipe.layer_decay
        self.optimizer = make_optimizer(model, recipe.optimizer, *rates)
        self.average = Average(model, recipe.ema, self.world)
        self.step: Any = make_step(model, self.world)
        self.precision = partial(autocast, self.world.device, recipe.amp)
        plain: Learn = partial(learn, self.step, self.precision)
        self.learn = Graphs(plain, self.world) if recipe.graphs else plain
        self.at, self.alarm = Position(), Alarm()
        self.pace = Pace(recipe.minutes, self.world, None if forecast is None else lambda: forecast(self.model))
        self.spent, self.about = spent, {"batch_size": batches.batch_size, **(about or {})}
        self.callbacks, self.settings = callbacks, settings or {}
        self.report: Report | None = None
        self.patience = Patience(self.folder, recipe.patience, recipe.min_delta)
        self.asked = self.stopping = self.evaluating = self.early = False
        self.saved, self.seen, self.scored = -1, -1, False
        self.feed, self.told = [len(batches), self.world.size], set[str]()

    def resume(self) -> bool:
        """Continue from the newest checkpoint in the folder, if there is one.

        raises  UserError if it is damaged, or of another network or optimizer
        """
        if found := checkpoint.whole(self.checkpoints):
            others = self.recipe, self.feed, self.about, self.average
            self.at, said = restore(found[-1], self.model, self.optimizer, *others)
            self.saved, self.scored = self.at.iteration, True
            self.patience.resume(self.at.iteration, self.about.get("held-out data"))
            self.seen, self.early = self.patience.last, self._over()
            done = self.at.epoch + self.at.batch / len(self.batches)
            said.insert(0, f"continuing from {found[-1]}: {self.at.iteration} steps, {done:.4g} epochs done.")
            self._print("\n".join(said))
        return bool(found)

    def run(self) -> Position:
        """Train to the end or until asked to stop; save, evaluate and draw; the model then holds the average."""
        with held(self.folder) if self.world.is_main else contextlib.nullcontext():
            sentence, finished = nothing_left(self.recipe, self.at, len(self.batches), self.folder, self.early)
            self._print(sentence)
            if not finished:
                self._reported(done=bool(sentence))
            self.average.show()
        return self.at

    def _reported(self, done: bool) -> None:
        """Run, and let the report and its callbacks know how that ended."""
        self.report = Report(self.folder, self.at.iteration, self.callbacks) if self.world.is_main else None
        how: BaseException | None = None
        try:
            if self.report is not None:
                self.report.start(self.settings)
            with heard(self._ask):
                self._run(done)
            how = KeyboardInterrupt() if self.stopping else None
        except BaseException as error:
            how = error
            raise
        finally:
            if self.report is not None:
                self.report.close(self.at.iteration, how)

    def _run(self, done: bool) -> None:
        self.pace.begin(self.at.seconds + self.spent, None if self.report is None else self.report.draw)
        if done:
            # Its time may be spent; the evaluation that is still to come is what was asked for.
            self.pace.limit = None
        else:
            self._train()
        if self.saved != self.at.iteration:
            self.save()
        self.average.show()
        if not self.stopping:
            self._finish()
        if self.stopping:
            self._say(f"stopped after iteration {self.at.iteration} and saved: --resume continues.")

    def _ask(self) -> None:
        """A wish to stop is granted after the step; at once in an evaluation, before which all was saved."""
        self.asked = True
        if self.evaluating:
            raise KeyboardInterrupt

    def _over(self) -> bool:
        """Whether patience, or a callback of the leading process, ends the run early."""
        return self.world.any(self.patience.over or bool(self.report and self.report.callbacks.wish))

    def _share(self) -> float:
        return self.recipe.share(self.at, len(self.batches))

    def _train(self) -> None:
        """Steps until the run's end, or until asked to stop."""
        batches, window = self.batches.stream(self.at.epoch, self.at.batch), Window()
        self.model.train()
        share, steps = self._share(), self.recipe.steps(len(self.batches))
        while share < 1 and not (self.stopping or self.early):
            set_rate(self.optimizer, self.pace.fitted(self.recipe.schedule)(self.at.iteration, share))
            window.add(*self.update(batches))
            before = self.at
            epochs, batch = divmod(before.batch + self._taken(), len(self.batches))
            seconds = self.pace.step_ended()
            self.at = Position(before.iteration + 1, before.epoch + epochs, batch, seconds, before.lead)
            hurry = self.pace.hurry(self.at.iteration, self._share(), before.lead, steps)
            if hurry > 0 and self.pace.fitting is not None:
                self._say_first("pace", self.pace.describe(self._share(), steps))
            self.at = replace(self.at, lead=before.lead + hurry)
            share = self._share()
            self._after_step(window, share, before.epoch)

    def update(self, batches: Iterator) -> tuple[dict[str, Tensor], int]:
        """One update of the weights; returns the mean loss terms and how many images all processes saw."""
        recipe, count, seen = self.recipe, self._taken(), 0
        total: dict[str, Tensor] = {}
        seed(self.world.device, ((recipe.seed * 1_000_003 + self.world.rank) * 1_000_003 + self.at.iteration) % 2**63)
        for batch in range(count):
            with part("data"):
                images, image_sizes, targets, names = self._fetch(batches)
            waits = self.world.size > 1 and batch < count - 1
            with self.step.no_sync() if waits else contextlib.nullcontext():
                terms = self.learn(images, image_sizes, targets, count)
            self.alarm.look(terms, self.at.iteration, names)
            add(total, terms, count)
            seen += len(images)
        with part("optimizer"):
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            self.optimizer.step()
            self.average.update()
            self.optimizer.zero_grad(set_to_none=not recipe.graphs)  # which add to those that they found
        return total, seen * self.world.size

    def _taken(self) -> int:
        return self.recipe.taken(self.at, len(self.batches))

    def _fetch(self, batches: Iterator) -> tuple[Tensor, Tensor, Targets, list[str]]:
        try:
            return fetch(batches, self.world.device)
        except UserError:
            # One bad picture must not cost the hours since the last checkpoint; alone, as the others would wait.
            if self.world.size == 1 and self.at.iteration > max(self.saved, 0):
                self.save()
            raise

    def _after_step(self, window: Window, share: float, epoch: int) -> None:
        recipe, iteration = self.recipe, self.at.iteration
        if (iteration % recipe.log_every == 0 or share >= 1) and self.report is not None:
            own = {"learning_rate": full_rate(self.optimizer), "memory_mb": memory_mb(self.world.device)}
            self.report.losses(iteration, share, self.at.epoch + bool(self.at.batch), {**window.flush(), **own})
        # Processes may be asked to stop at different steps; they agree every tenth.
        if self.world.size == 1 or iteration % 10 == 0:
            self.stopping, self.early = self.world.any(self.asked), self._over()
        evaluates = recipe.evaluates_between(epoch, self.at.epoch)
        if share < 1 and evaluates and self.evaluate is not None:
            evaluates = self.pace.affords(share, recipe.steps(len(self.batches)))
            if not evaluates:
                self._say_first("between", self.pace.describe_ending())
        if share < 1 and (evaluates or (recipe.save_every and iteration % recipe.save_every == 0)):
            self.save()
        if share < 1 and evaluates:
            with window.paused():
                self._evaluate()
            self.pace.evaluation_ended()
            self.model.train()

    def save(self) -> None:
        """Write a checkpoint, if the losses and weights so far are finite."""
        self.alarm.settle()
        check_weights(self.model, self.at.iteration)
        self.saved = self.at.iteration
        if self.world.is_main:
            state = state_of(self.optimizer, self.average, self.recipe, self.at, self.feed, self.about)
            checkpoint.save(self.checkpoints, self.at.iteration, self.model, state, self.recipe.keep)
        self.world.barrier()

    def _evaluate(self) -> None:
        """Score the model, and keep the best weights; a signal interrupts that, but not the exchange of the weights."""
        with self.average.shown():
            self._score()

    def _score(self) -> None:
        if self.evaluate is None:
            return
        self.evaluating = True
        try:
            with torch.no_grad(), self.precision():
                numbers = self.evaluate(self.model.eval())
        except KeyboardInterrupt:
            self.stopping = True
            return
        finally:
            self.evaluating = False
        if self.report is not None:
            held_out = self.about.get("held-out data")
            self._say(keep_best(self.folder, self.model, self.at.iteration, numbers, held_out, not self.scored))
            self.patience.add(self.at.iteration, numbers, held_out)
            self.report.evaluation(self.at.iteration, numbers)
            self.scored = True
        self.seen, self.early = self.at.iteration, self._over()

    def _finish(self) -> None:
        if self.early and self.report is not None and self._share() < 1:
            self._say(self.patience.describe() if self.patience.over else f"ended early: {self.report.callbacks.wish}")
        to_come = self.evaluate is not None and self.seen < self.at.iteration  # unless one of these weights was the end
        if to_come and not self.pace.ends_with_evaluation():
            self._say(f"not evaluated: {self.pace.why_not()}; htc_fast.evaluate does it afterwards.")
        elif to_come:
            self._evaluate()
        if self.stopping or not self.world.is_main:
            return
        final = self.folder / "model.safetensors"
        checkpoint.write_whole(final, checkpoint.weights_bytes(self.model, self.at.iteration))
        if self.picture is not None:
            self.model.eval()
            with writing(self.folder / "predictions.png"):
                self._say(self.picture(self.model, self.folder / "predictions.png", self.pace.for_picture()))
        self._say(f"{ended(self.at, self.recipe.steps(len(self.batches)), self.pace.elapsed)}: {final}")

    def _say(self, sentence: str) -> None:
        if sentence and self.report is not None:
            self.report.say(sentence)

    def _say_first(self, kind: str, sentence: str) -> None:
        if kind not in self.told:
            self.told.add(kind)
            self._say(sentence)

    def _print(self, sentence: str) -> None:
        if sentence and self.world.is_main:
            print(sentence, file=sys.stderr)
