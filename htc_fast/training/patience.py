"""Early stopping: a run ends where evaluation after evaluation finds nothing better.

The scores so far are kept in the run's folder, so that a run that goes on counts as if it had never stopped.
"""

import json
import math
from pathlib import Path

from htc_fast.training import checkpoint
from htc_fast.training.best import ABOUT, SCORE, WEIGHTS

SCORES = "patience.json"


class Patience:
    """How many evaluations a run still has to get better in.

    folder     of the run
    patience   evaluations in a row without a better mask AP, after which it is over; None: never
    min_delta  by how much a score has to be above the best so far to be better
    """

    def __init__(self, folder: Path, patience: int | None, min_delta: float):
        self.path, self.patience, self.min_delta = folder / SCORES, patience, min_delta
        self.scores: list[tuple[int, float]] = []

    def resume(self, iteration: int, held_out: str | None) -> None:
        """Take up the scores up to an iteration; none where they are of other held-out pictures.

        Of a run that had no patience so far, it is the best one alone.
        """
        if self.patience is None:
            return
        try:
            if self.path.exists():
                found = json.loads(self.path.read_text())
                scores = [(int(step), float(score)) for step, score in found["scores"]]
            else:
                found = json.loads((self.path.parent / ABOUT).read_text())
                scores = [(int(found["iteration"]), float(found[SCORE]))]
            scores = scores if found["held_out"] == held_out else []
        except (OSError, ValueError, KeyError, TypeError):
            scores = []
        self.scores = [one for one in scores if one[0] <= iteration]

    def add(self, iteration: int, numbers: dict[str, float], held_out: str | None) -> None:
        """Take in an evaluation."""
        if self.patience is not None:
            self.scores.append((iteration, numbers[SCORE]))
            text = json.dumps({"held_out": held_out, "scores": self.scores})
            checkpoint.write_whole(self.path, text.encode())

    @property
    def last(self) -> int:
        """The iteration of the last score; -1: there is none."""
        return self.scores[-1][0] if self.scores else -1

    @property
    def over(self) -> bool:
        """Whether the run has had its chances."""
        return self.patience is not None and waited(self.scores, self.min_delta)[1] >= self.patience

    def describe(self) -> str:
        """Why the run is over."""
        (step, score), count = waited(self.scores, self.min_delta)
        return (
            f"ended early: {count} evaluations in a row found no mask AP more than {self.min_delta:g} above the "
            f"{score:.3f} of iteration {step} (patience {self.patience}); {WEIGHTS} has the best weights"
        )


def waited(scores: list[tuple[int, float]], min_delta: float) -> tuple[tuple[int, float], int]:
    """The last score that was better than all before it by more than min_delta, and how many came after it."""
    best, count = (0, -math.inf), 0
    for one in scores:
        best, count = (one, 0) if one[1] > best[1] + min_delta else (best, count + 1)
    return best, count
