"""Keeping a promise of time: the first steps are timed, and where not all of the run fits, its schedule is fitted.

What the end costs, evaluation and picture, is foreseen on a few pictures and kept free. A run that fits is left as it
is, so that it can be repeated exactly; one that does not moves faster through its schedule, at each step as much as
the time left asks for, so that it reaches the end of its learning rate also on a machine that slows down midway. Where
the machine turns out quicker, the forecast is repeated, and what was left out of the schedule is taken back.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from htc_fast.training.distributed import World
from htc_fast.training.optimizer import Schedule
from htc_fast.training.recipe import Position

MEASURED = 3  # steps that a pace is known from, after the first, which is slow
FEW = 60  # steps of the sample after which mask AP50 is 0.06; it is 0.22 after 100, 0.37 after 150
SHORTEST = 10  # warm-up that a slow beginning may lead to
RECENT = 20  # steps that the pace is known from
LOST = 0.2  # of the run: what is left out beyond this, without need, is taken back at once
CHANGED = 2.0  # times quicker or slower: the forecast is repeated
REPEATS = 0.05  # of the limit, for repeated forecasts
DEAR = 0.2  # of the limit: an end that takes more is foreseen a second time
AFTER = 0.125  # of the limit, as the first may have been a bad moment
MARGIN = 1.15  # on what the evaluation is foreseen to take
TIGHT = 0.2  # of the limit: the most that is kept for what follows, as steps may be long beside it
LAST = 6  # steps' worth of time for checkpoint, weights and curves, and
SPARE = 3.0  # seconds, and
UNSEEN = 0.03  # of the limit, for what nobody foresees


class Pace:
    """The clock of one run.

    minutes   limit of all that the run does; None: none, and everything here is without effect
    forecast  seconds that evaluation and picture will take; called in all processes, again where the pace changes;
              None: there are neither
    clock     seconds, from any beginning
    """

    def __init__(
        self,
        minutes: float | None,
        world: World | None = None,
        forecast: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limit = None if minutes is None else 60 * minutes
        self.world, self.forecast, self.clock = world or World(), forecast, clock
        self.steps: deque[float] = deque(maxlen=RECENT)
        # Of evaluation and picture: seconds, and the seconds of a step at that time; one slows down with the other.
        self.cost: tuple[float, float] | None = None if forecast else (0.0, 1.0)
        # Of the last forecast: seconds of making it, those of a step, when; and seconds of making all repeated ones.
        self.look, self.repeated = (0.0, 1.0, 0.0), 0.0
        self.fitting: int | None = None
        self.begin(0.0)

    def begin(self, spent: float, closing: Callable[[], None] | None = None) -> None:
        """Start the clock at the seconds that are spent already.

        closing  what is done after all else, to see with the forecast how long it takes; None: nothing
        """
        self.rehearse, self.closing = closing, 0.0
        self.started = self.clock() - spent
        self.now = self.evaluated = spent
        self.first = True

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, by this process's clock."""
        return self.clock() - self.started

    def seconds(self) -> float:
        """Seconds of the run so far; where there is a limit, all processes ask and get the same number."""
        return self.elapsed if self.limit is None else self.world.max(self.elapsed)

    def step_ended(self) -> float:
        """Time a step, unless it is the first; returns the seconds of the run."""
        before, self.now = self.now, self.seconds()
        if not self.first:
            self.steps.append(self.now - before)
        self.first = False
        return self.now

    def evaluation_ended(self) -> None:
        """Learn from an evaluation in the middle of a run, which began when the last step had ended."""
        before, self.now = self.now, self.seconds()
        self.evaluated = self.now
        self.cost = (self.now - before, self.usual)

    @property
    def per_step(self) -> float:
        """Seconds, lately; 1 before the second step."""
        return max(statistics.fmean(self.steps), 1e-6) if self.steps else 1.0

    @property
    def usual(self) -> float:
        """Seconds of the median step: neither a moment's disturbance nor a slow beginning that is over counts."""
        return max(statistics.median(self.steps), 1e-6) if self.steps else 1.0

    @property
    def ending(self) -> float:
        """Seconds that evaluation and picture take at the usual pace."""
        seconds, then = self.cost or (0.0, 1.0)
        return seconds * self.usual / then

    @property
    def evaluates(self) -> bool:
        """Whether the run is to end with an evaluation: not where that takes most of the time."""
        return self.limit is None or self.ending <= self.limit / 2

    def hurry(self, iteration: int, share: float, lead: float, steps: float) -> float:
        """What to add to the share of the run that is done, so that it ends in time; 0 where the planned steps fit.

        iteration  steps done
        share      of the run that is done or left out
        lead       what of it is left out; where the machine turns out quicker, that is taken back as far as it can be
        steps      of the whole run without a limit; what is left of them is the share that is not done
        """
        if self.limit is None or share >= 1:
            return 0.0
        if len(self.steps) < MEASURED:
            return 1 - share if self.now + (self.per_step if self.steps else 0.0) >= self.limit else 0.0
        self.foresee()
        left = (1 - share) * steps
        if left > self._left() / self.per_step or lead or not self.evaluates:
            self._foresee_again()
        fitting = self._left() / self.per_step
        if left <= fitting and not lead:
            return 0.0
        self.fitting = iteration + max(int(fitting), 0)
        if fitting < 1:
            return 1 - share
        due = iteration / (iteration + fitting)
        if share - due > LOST:
            return max(due - share, -lead)
        return max((1 - share) * (1 / fitting - 1 / left), -lead)

    def foresee(self) -> None:
        """Find out what the end will take, unless it is known."""
        if self.limit is not None and self.cost is None:
            self._look()

    def _foresee_again(self) -> None:
        """Once more, where the pace has changed or the end takes much, if that is cheap."""
        if self.limit is None or self.cost is None or self.forecast is None:
            return
        seconds, then, when = self.look
        changed = not 1 / CHANGED < self.usual / self.cost[1] < CHANGED
        dear = not self.repeated and self.ending > DEAR * self.limit and self.now - when > AFTER * self.limit
        expected = seconds * max(self.usual, self.per_step) / then
        if (changed or dear) and self.repeated + expected <= REPEATS * self.limit:
            self.repeated += self._look()

    def _look(self) -> float:
        """Forecast; returns the seconds of doing so."""
        assert self.forecast is not None
        if self.cost is None:
            began = self.clock()
            if self.rehearse is not None:
                self.rehearse()
            self.closing = self.world.max(self.clock() - began)
        before = self.seconds()
        self.cost = (self.world.max(self.forecast()), self.usual)
        self.now = self.seconds()
        self.look = (self.now - before, self.usual, self.now)
        return self.now - before

    def affords(self, share: float, steps: float) -> bool:
        """Whether an evaluation in the middle leaves the steps their time, or is short beside what was done since."""
        if self.limit is None:
            return True
        self.foresee()
        slack = self._left() - (1 - share) * steps * self.per_step
        return self.evaluates and self.ending <= max(slack, (self.now - self.evaluated) / 8)

    def describe_ending(self) -> str:
        """Why there are no evaluations in the middle."""
        return f"no evaluations in between: one takes {self.ending:.0f} s of the time limit."

    def ends_with_evaluation(self) -> bool:
        """Whether the last evaluation fits into the time that is left."""
        if self.limit is None:
            return True
        if self.seconds() < self.limit:
            self.foresee()
        return self.evaluates and self.seconds() + self.ending + self.closing <= self.limit

    def why_not(self) -> str:
        """Why the run is not to end with an evaluation."""
        assert self.limit is not None
        limit = f"the time limit of {self.limit / 60:g} minutes"
        if self.cost is None:
            return f"{limit} was spent before, after {self.elapsed:.0f} s"
        return f"{limit} has not left the {self.ending:.0f} s or so that this would take"

    def for_picture(self) -> float:
        """Seconds that the picture at the end may take."""
        return math.inf if self.limit is None else self.limit - self.elapsed - self.closing

    def fitted(self, schedule: Schedule) -> Schedule:
        """The schedule with a warm-up that leaves most of the steps that fit for what comes after it."""
        if self.fitting is None:
            return schedule
        return replace(schedule, warmup=min(schedule.warmup, max(self.fitting // 4, SHORTEST)))

    def describe(self, share: float, steps: float) -> str:
        """How the machine's pace and the plan differ, once `hurry` has found out."""
        assert self.limit is not None and self.fitting is not None
        missing = (1 - share) * steps * self.per_step - self._left()
        enough = math.ceil(1.05 * (self.limit + max(missing, 0)) / 60)
        few = f"fewer than {FEW} teach next to nothing, so expect an AP near 0; " if self.fitting < FEW else ""
        return (
            f"this machine takes {self.per_step:.2g} s a step: about {self.fitting} of {math.ceil(steps)} steps fit "
            f"into {self.limit / 60:g} minutes, and the schedule is fitted to them; {few}"
            f"for all of them set max_minutes to {enough} (--max-minutes {enough})."
        )

    def _left(self) -> float:
        """Seconds for steps: those to the limit without what the end takes."""
        assert self.limit is not None
        ending = MARGIN * self.ending if self.evaluates else 0.0
        last = min(LAST * self.per_step + SPARE, TIGHT * self.limit)
        return self.limit - self.now - ending - self.closing - last - UNSEEN * self.limit


def ended(at: Position, planned: float, elapsed: float) -> str:
    """What there is to say of a run at its end, of which so many steps were planned, and its seconds."""
    steps, planned = at.iteration, math.ceil(planned)
    of = f" of {planned}" if at.lead and steps < planned else ""
    few = f"; fewer than {FEW} teach next to nothing: raise max_minutes" if of and steps < FEW else ""
    return f"finished after {steps}{of} iterations in {elapsed / 60:.1f} minutes{few}"
