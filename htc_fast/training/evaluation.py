"""What a run does with its held-out pictures: scores, a picture of them, and how long both will take."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from htc_fast.data.coco import CocoDataset
from htc_fast.data.draw import side_by_side
from htc_fast.detector import Detector
from htc_fast.device import autocast
from htc_fast.evaluation import coco
from htc_fast.training.distributed import World

DRAWN = 6  # pictures that the picture at the end shows
TRIED = 3  # pictures that a forecast predicts, in each process
SLOWER = 1.3  # times as long as predicting: predicting one and drawing it


def make_evaluation(val: CocoDataset, world: World) -> Callable[[Detector], dict[str, float]]:
    """Model -> AP of boxes and masks; every process predicts its share, the main one gets the numbers."""

    def evaluate(model: Detector) -> dict[str, float]:
        found = coco.collect(model, val, rank=world.rank, world=world.size, progress=sys.stderr.isatty())
        found = coco.gather(found)
        return coco.score(val, found).metrics if world.is_main else {}

    return evaluate


class Forecast:
    """Model -> seconds that evaluation and picture will take, by the time of a few pictures in each process.

    each  attribute: seconds of predicting one of them; None before the first forecast
    """

    def __init__(self, val: CocoDataset, world: World, amp: bool):
        self.val, self.world, self.amp = val, world, amp
        self.each: float | None = None

    def __call__(self, model: Detector) -> float:
        val, world = self.val, self.world
        with torch.no_grad(), autocast(world.device, self.amp):
            # The first picture pays for what is made once.
            one, _, scoring_one = self._tried(model, 1)
            count, predicting, scoring = self._tried(model, TRIED)
        if not count:
            return 0.0
        self.each = predicting / count
        # Scoring takes its time for each class whatever the pictures; only what further ones add is multiplied.
        added = max(scoring - scoring_one, 0.0) / max(count - one, 1)
        return self.each * (len(val) / world.size + DRAWN) + scoring + added * (len(val) - count)

    def _tried(self, model: Detector, count: int) -> tuple[int, float, float]:
        """Pictures that this process predicted; seconds of predicting and of scoring them."""
        began = time.monotonic()
        limit = min(count * self.world.size, len(self.val))
        found = coco.collect(model, self.val, limit=limit, rank=self.world.rank, world=self.world.size, progress=False)
        predicted = time.monotonic()
        if found:
            coco.score(self.val, found)
        return len(found), predicted - began, time.monotonic() - predicted


def make_picture(
    val: CocoDataset, forecast: Forecast | None = None, most: int = DRAWN
) -> Callable[[Detector, Path, float], str]:
    """(model, path, seconds) -> predictions beside the truth, for pictures spread over the validation set.

    forecast  of this run, which knows how long one takes: there are as many as fit; a sentence says if they are fewer
    """

    def draw(model: Detector, path: Path, seconds: float = math.inf) -> str:
        each = 0.0 if forecast is None or forecast.each is None else SLOWER * forecast.each
        count = most if seconds == math.inf else max(0, min(most, int(seconds / max(each, 1e-9))))
        said = "" if count == most else f"{path.name}: {count or 'none'} of {most} pictures fit into the time limit."
        if not count:
            return said
        chosen = sorted({round(i * (len(val) - 1) / max(count - 1, 1)) for i in range(count)})
        pictures = [val.image(index) for index in chosen]
        found = model.predict(pictures, score_threshold=0.5, class_names=val.classes)
        side_by_side([(p, one, val.truth(i)) for p, one, i in zip(pictures, found, chosen)]).save(path)
        return said

    return draw
