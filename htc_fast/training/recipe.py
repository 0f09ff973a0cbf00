"""How a run is meant to go, and where it stands."""

import math
from dataclasses import dataclass

from htc_fast.training.optimizer import Schedule


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    iteration  steps done
    epoch      epochs done
    batch      batches taken from this epoch, of this process
    seconds    spent so far, over all its parts
    lead       share of the run that was left out, so that it ends in time
    """

    iteration: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    lead: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and how carefully to train.

    epochs, iterations, minutes  the run ends at whichever comes first; minutes are those of all that a run does
    schedule                     learning rate over the run
    accumulate                   batches per step; the last step takes those that are left
    amp                          bf16 autocast, where the device computes in bf16
    graphs                       steps are replayed as CUDA graphs: one process, on a GPU
    clip                         largest L2 norm of the gradient; None: no clipping
    no_decay, layer_decay        which weights have a weight decay, and their shares of the rate; see `parameter_groups`
    ema                          decay of the average of the weights that is evaluated and kept; 0: none
    evaluate_every               epochs; 0: only at the end
    save_every                   iterations, besides every evaluation and the end; 0: only those
    keep                         checkpoints kept
    log_every                    iterations between rows of the metrics
    patience, min_delta          evaluations in a row that end the run where none finds a mask AP that is so much above
                                 the best so far; None: never
    """

    schedule: Schedule
    epochs: float = 20
    iterations: int | None = None
    minutes: float | None = None
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    accumulate: int = 1
    amp: bool = False
    graphs: bool = False
    clip: float | None = None
    no_decay: bool = False
    layer_decay: float = 1.0
    ema: float = 0.0
    evaluate_every: int = 1
    save_every: int = 1000
    keep: int = 3
    log_every: int = 10
    patience: int | None = None
    min_delta: float = 0.001
    seed: int = 0

    def shares(self, at: Position, batches_per_epoch: int) -> dict[str, float]:
        """How much of the run is done, 0 to 1 or more, by each limit that does not depend on the clock."""
        batches = at.epoch * batches_per_epoch + at.batch
        shares = {"epochs": batches / self._batches(batches_per_epoch)}
        if self.iterations is not None:
            shares["iterations"] = at.iteration / max(1, self.iterations)
        return shares

    def share(self, at: Position, batches_per_epoch: int) -> float:
        """How much of the run is done or left out, 0 to 1 or more."""
        return max(self.shares(at, batches_per_epoch).values()) + at.lead

    def steps(self, batches_per_epoch: int) -> float:
        """Steps of a whole run without a limit of time."""
        steps = self._batches(batches_per_epoch) / self.accumulate
        return steps if self.iterations is None else min(steps, self.iterations)

    def evaluates_between(self, before: int, now: int) -> bool:
        """Whether a step between these epochs, which may jump over several, ends one that is evaluated."""
        every = self.evaluate_every
        return bool(every) and now // every > before // every

    def taken(self, at: Position, batches_per_epoch: int) -> int:
        """Batches of the step that begins there: no more than are left of the epochs, a begun one included."""
        left = self._batches(batches_per_epoch) - at.epoch * batches_per_epoch - at.batch
        return self.accumulate if left >= self.accumulate else max(math.ceil(left), 1)

    def _batches(self, batches_per_epoch: int) -> float:
        """Batches of all epochs."""
        batches = min(max(1, self.epochs * batches_per_epoch), 1e15)
        # 0.7 times 10 is a little more than 7, and no batch.
        return round(batches) if math.isclose(batches, round(batches), rel_tol=1e-9) else batches
