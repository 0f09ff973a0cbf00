"""How a run is meant to go, and where it stands."""

from dataclasses import dataclass

from htc_fast.training.optimizer import Schedule


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and how carefully to train.

    epochs, iterations, minutes  the run ends at whichever comes first; minutes include evaluations
    schedule                     learning rate over the run
    accumulate                   batches per step
    amp                          bf16 autocast, where the device computes in bf16
    clip                         largest L2 norm of the gradient; None: no clipping
    evaluate_every               epochs; 0: only at the end
    save_every                   iterations, besides every evaluation and the end; 0: only those
    keep                         checkpoints kept
    log_every                    iterations between rows of the metrics
    """

    schedule: Schedule
    epochs: float = 20
    iterations: int | None = None
    minutes: float | None = None
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    accumulate: int = 1
    amp: bool = False
    clip: float | None = None
    evaluate_every: int = 1
    save_every: int = 1000
    keep: int = 3
    log_every: int = 10
    seed: int = 0

    def share(self, iteration: int, batches_per_epoch: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1 or more."""
        shares = [iteration * self.accumulate / max(1, self.epochs * batches_per_epoch)]
        if self.iterations is not None:
            shares.append(iteration / max(1, self.iterations))
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes))
        return max(shares)


@dataclass(frozen=True)
class Position:
    """Where a run stands: iterations done, epochs done, batches taken from this epoch, seconds spent."""

    iteration: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
