"""What a run does with its held-out pictures: scores, a picture of them, and how long both will take."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from htc_fast.data.coco import CocoDataset
from htc_fast.data.draw import side_by_side
from htc_fast.data.instances import Instances
from htc_fast.detector import Detector
from htc_fast.device import autocast
from htc_fast.evaluation import coco
from htc_fast.evaluation.evaluate_coco import Scores
from htc_fast.evaluation.report import report
from htc_fast.inference.predict import at_stage
from htc_fast.pages import evaluation
from htc_fast.training.distributed import World
from htc_fast.training.interrupts import heard

DRAWN = 6  # pictures that the picture at the end shows
PAGE = 2.0  # seconds that the page takes without what grows with the pictures
TRIED = 3  # pictures that a forecast predicts, in each process
SLOWER = 1.3  # times as long as predicting: predicting one and drawing it
SHORT, SHARE = 60.0, 0.1  # AP by stage is added where it takes less than this many seconds, or this share of the run


class Evaluation:
    """Model -> AP of boxes and masks; every process predicts its share, the main one gets the numbers.

    What was found is kept until the next time, in the main process: the page at the end shows it.
    """

    def __init__(self, val: CocoDataset, world: World, amp: bool = False):
        self.val, self.world, self.amp = val, world, amp
        self.found: dict[int, Instances] = {}
        self.scores: Scores | None = None
        self.weights, self.began, self.took = math.nan, time.monotonic(), 0.0

    def __call__(self, model: Detector) -> dict[str, float]:
        self.found, self.scores, began = {}, None, time.monotonic()
        rank, world = self.world.rank, self.world.size
        found = coco.gather(coco.collect(model, self.val, rank=rank, world=world, progress=sys.stderr.isatty()))
        if not self.world.is_main:
            return {}
        scores = coco.score(self.val, found)
        for kind, one in scores.curves.items():
            # Of 1000 classes all of it is 400 MB, of which the page needs a sixth.
            scores.curves[kind] = replace(one, precision=one.precision[..., -1:].copy(), scores=one.scores[:0])
        self.found, self.scores, self.weights = found, scores, _sum(model)
        self.took = time.monotonic() - began
        return scores.metrics

    def write_page(self, model: Detector, folder: Path, seconds: float = math.inf) -> str:
        """Write the page of what was found last, if this model found it; returns what there is to say of it."""
        if self.scores is None or self.weights != _sum(model):
            return ""
        if seconds < PAGE:
            return f"{evaluation.PAGE}: no time left to write it: htc_fast.evaluate --report does."
        began = time.monotonic()
        stages, said = self._stages(model, seconds - PAGE)
        made = report(self.val, self.found, {**stages, "ensemble": self.scores})
        left = seconds - PAGE / 2 - (time.monotonic() - began)
        return f"how it did, and on what{said}: {evaluation.save(folder, made, model.config.name, left)}"

    def _stages(self, model: Detector, seconds: float) -> tuple[dict[str, Scores], str]:
        """Scores of each stage alone, and what to say where they would take too long; this process predicts all."""
        count, scores = len(model.config.stages.match_iou), dict[str, Scores]()
        if count == 1:
            return {}, ""
        takes = by_stage(model, self.world, self.took, time.monotonic() - self.began)
        if takes > seconds or takes == 0:
            return {}, " (AP by stage would take too long: htc_fast.evaluate --report adds it)"
        try:
            with heard(_stop), torch.no_grad(), autocast(self.world.device, self.amp):
                for stage in range(1, count + 1):
                    with at_stage(model, stage):
                        one = coco.score(self.val, coco.collect(model, self.val, progress=sys.stderr.isatty()))
                    scores[f"stage {stage}"] = Scores(one.metrics, one.per_class)
        except KeyboardInterrupt:
            return {}, " (AP by stage was stopped: htc_fast.evaluate --report adds it)"
        return scores, ""


def by_stage(model: Detector, world: World, evaluating: float, spent: float) -> float:
    """Seconds of AP by stage at the end of a run; 0: there is one stage, or they would take too long.

    evaluating  seconds of an evaluation by all processes
    spent       seconds of the run
    """
    count = len(model.config.stages.match_iou)
    takes = count * world.size * evaluating if count > 1 else 0.0
    return takes if takes <= max(SHORT, SHARE * spent) else 0.0


def _stop() -> None:
    raise KeyboardInterrupt


def _sum(model: Detector) -> float:
    """What other weights will hardly have, too."""
    return float(sum(parameter.detach().double().sum() for parameter in model.parameters()))


class Forecast:
    """Model -> seconds that evaluation, picture and page will take, by the time of a few pictures in each process.

    each    attribute: seconds of predicting one of them; None before the first forecast
    ending  attribute: seconds of picture and page
    """

    def __init__(self, val: CocoDataset, world: World, amp: bool):
        self.val, self.world, self.amp = val, world, amp
        self.each: float | None = None
        self.ending = 0.0

    def __call__(self, model: Detector) -> float:
        val, world = self.val, self.world
        with torch.no_grad(), autocast(world.device, self.amp):
            # The first picture pays for what is made once.
            one, _, scoring_one = self._tried(model, 1)
            count, predicting, scoring = self._tried(model, TRIED)
        if not count:
            return 0.0
        self.each = predicting / count
        self.ending = self.each * DRAWN + PAGE
        # Scoring takes its time for each class whatever the pictures; only what further ones add is multiplied.
        added = max(scoring - scoring_one, 0.0) / max(count - one, 1)
        return self.each * len(val) / world.size + scoring + added * (len(val) - count) + self.ending

    def _tried(self, model: Detector, count: int) -> tuple[int, float, float]:
        """Pictures that this process predicted; seconds of predicting and of scoring them."""
        began = time.monotonic()
        limit = min(count * self.world.size, len(self.val))
        found = coco.collect(model, self.val, limit=limit, rank=self.world.rank, world=self.world.size, progress=False)
        predicted = time.monotonic()
        if found:
            report(self.val, found, {"ensemble": coco.score(self.val, found)})
        return len(found), predicted - began, time.monotonic() - predicted


def make_picture(
    val: CocoDataset,
    forecast: Forecast | None = None,
    most: int = DRAWN,
    evaluated: Evaluation | None = None,
) -> Callable[[Detector, Path, float], str]:
    """(model, path, seconds) -> predictions beside the truth, for pictures spread over the validation set.

    forecast   of this run, which knows how long one takes: there are as many as fit; a sentence says if they are fewer
    evaluated  what evaluated the model: beside the picture its page is written
    """

    def draw(model: Detector, path: Path, seconds: float = math.inf) -> str:
        each = 0.0 if forecast is None or forecast.each is None else SLOWER * forecast.each
        count = most if seconds == math.inf else max(0, min(most, int(seconds / max(each, 1e-9))))
        if count:
            chosen = sorted({round(i * (len(val) - 1) / max(count - 1, 1)) for i in range(count)})
            pictures = [val.image(index) for index in chosen]
            found = model.predict(pictures, score_threshold=0.5, class_names=val.classes, tile=val.tile)
            side_by_side([(p, one, val.truth(i)) for p, one, i in zip(pictures, found, chosen)]).save(path)
        return "" if count == most else f"{path.name}: {count or 'none'} of {most} pictures fit into the time limit."

    def conclude(model: Detector, path: Path, seconds: float = math.inf) -> str:
        began = time.monotonic()
        said = [draw(model, path, seconds)]
        if evaluated is not None:
            said.append(evaluated.write_page(model, path.parent, seconds - (time.monotonic() - began)))
        return "\n".join(one for one in said if one)

    return conclude
