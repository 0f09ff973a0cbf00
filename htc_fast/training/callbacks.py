"""Who listens to a training run: what it tells them, and what becomes of one that fails."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from htc_fast.errors import UserError, shown

LONGEST = 300  # letters of what another library says
LAST = ("on_end", "on_error")


class Callback:
    """What a run tells whoever listens; override what you need.

        class Losses(Callback):
            def on_step(self, iteration, numbers):
                print(iteration, numbers["loss"])

        Trainer(run, callbacks=[Losses()]).run()

    Called in the leading process alone, in the order of the list, by the thread that trains: it waits meanwhile. All
    numbers are on the host already, so that no GPU waits for a callback to read them.

    raises  what `on_start` raises ends the run before its first step; a callback that raises later is named with the
            reason and left out from there on, and the run goes on
    """

    _wish: str | None = None

    def on_start(self, folder: Path, iteration: int, settings: dict[str, Any]) -> None:
        """Before the first step, of the run in this folder.

        iteration  0, or the steps that a resumed run had done
        settings   the run's own by their names, with the batch size and learning rate that it came to
        """

    def on_step(self, iteration: int, numbers: dict[str, float]) -> None:
        """After every tenth step and the last: what losses.csv gets, means since the row before."""

    def on_evaluation(self, iteration: int, numbers: dict[str, float]) -> None:
        """After an evaluation: what evaluations.csv gets."""

    def on_end(self, iteration: int) -> None:
        """The run has reached its end, and all its files are written."""

    def on_error(self, iteration: int, error: BaseException) -> None:
        """It ended otherwise, instead of `on_end`; a KeyboardInterrupt where it was asked to stop."""

    def end_run(self, reason: str = "") -> None:
        """Ask for the run's end, from one of these methods or from another thread; not to be overridden.

        It comes after this step (among several processes, after the tenth step that is next) or evaluation, with all
        that a run leaves at its end, and `on_end`.

        reason  why, for who reads what the run says
        """
        self._wish = reason


class Callbacks:
    """Several callbacks as one that never raises, once it has begun.

    say     is given a sentence on each that fails
    active  attribute: those that have not failed
    """

    def __init__(self, callbacks: Iterable[Callback], say: Callable[[str], None]):
        self.active, self.say = list(callbacks), say
        self.all = tuple(self.active)

    @property
    def wish(self) -> str:
        """Who asked for the run's end, and why; empty: nobody."""
        asked = ((type(one).__name__, one._wish) for one in self.all if one._wish is not None)
        return next((f"callback {name} asked for it" + (f": {why}" if why else "") for name, why in asked), "")

    def start(self, folder: Path, iteration: int, settings: dict[str, Any]) -> None:
        """raises  UserError naming the callback that could not start; those before it are active"""
        waiting, self.active = self.active, []
        for one in waiting:
            one._wish = None  # of a run before
            try:
                one.on_start(folder, iteration, dict(settings))
            except Exception as error:
                name = type(one).__name__
                raise UserError(
                    f"callback {name} could not start ({_reason(error)}): mend that, or leave {name} out."
                ) from error
            self.active.append(one)

    def tell(self, event: str, iteration: int, *values: Any) -> None:
        """Call the method of that name; dicts are each callback's own."""
        for one in tuple(self.active):
            own = [dict(value) if isinstance(value, dict) else value for value in values]
            try:
                getattr(one, event)(iteration, *own)
            except Exception as error:
                self.active = [other for other in self.active if other is not one]
                after = "." if event in LAST else ": it is left out from here on, and the run goes on."
                failed = f"callback {type(one).__name__} failed in {event} at iteration {iteration}"
                self.say(f"{failed} ({_reason(error)}){after}")


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Several as a list, or one alone.

    raises  UserError for what is no callback
    """
    found = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for one in found:
        if not isinstance(one, Callback):
            raise UserError(
                f"callbacks takes objects of classes made from htc_fast.training.Callback, got {shown(one)}."
            )
    return found


def _reason(error: Exception) -> str:
    """What went wrong and where, on one line."""
    said = " ".join(str(error).split())
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {said}{place}"
