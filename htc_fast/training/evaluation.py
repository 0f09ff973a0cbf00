"""What a run does with its held-out pictures: scores, a picture of them, and how long both will take."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from htc_fast.data.coco import CocoDataset
from htc_fast.detector import Detector
from htc_fast.device import autocast
from htc_fast.evaluation import coco
from htc_fast.inference.draw import side_by_side
from htc_fast.training.distributed import World

DRAWN = 6  # pictures that the picture at the end shows
TRIED = 3  # pictures that a forecast predicts, in each process


def make_evaluation(val: CocoDataset, world: World) -> Callable[[Detector], dict[str, float]]:
    """Model -> AP of boxes and masks; every process predicts its share, the main one gets the numbers."""

    def evaluate(model: Detector) -> dict[str, float]:
        found = coco.collect(model, val, rank=world.rank, world=world.size, progress=sys.stderr.isatty())
        found = coco.gather(found)
        return coco.score(val, found).metrics if world.is_main else {}

    return evaluate


def make_picture(val: CocoDataset, count: int = DRAWN) -> Callable[[Detector, Path], None]:
    """(model, path) -> predictions beside the truth, for pictures spread over the validation set."""

    def draw(model: Detector, path: Path) -> None:
        chosen = sorted({round(i * (len(val) - 1) / max(count - 1, 1)) for i in range(count)})
        pictures = [val.image(index) for index in chosen]
        found = model.predict(pictures, score_threshold=0.5, class_names=val.classes)
        side_by_side([(p, one, val.truth(i)) for p, one, i in zip(pictures, found, chosen)]).save(path)

    return draw


def make_forecast(val: CocoDataset, world: World, amp: bool) -> Callable[[Detector], float]:
    """Model -> seconds that evaluation and picture will take, by the time of a few pictures in each process."""

    def tried(model: Detector, count: int) -> tuple[int, float, float]:
        """Pictures that this process predicted; seconds of predicting and of scoring them."""
        began = time.monotonic()
        limit = min(count * world.size, len(val))
        found = coco.collect(model, val, limit=limit, rank=world.rank, world=world.size, progress=False)
        predicted = time.monotonic()
        if found:
            coco.score(val, found)
        return len(found), predicted - began, time.monotonic() - predicted

    def foresee(model: Detector) -> float:
        with torch.no_grad(), autocast(world.device, amp):
            # The first picture pays for what is made once.
            one, _, scoring_one = tried(model, 1)
            count, predicting, scoring = tried(model, TRIED)
        if not count:
            return 0.0
        # Scoring takes its time for each class whatever the pictures; only what further ones add is multiplied.
        added = max(scoring - scoring_one, 0.0) / max(count - one, 1)
        return predicting / count * (len(val) / world.size + DRAWN) + scoring + added * (len(val) - count)

    return foresee
