"""One model of one seed: trained, tested stage by stage, and its scores written, which say that it is done."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from htc_fast.data.classes import names_for
from htc_fast.data.coco import CocoDataset
from htc_fast.detector import Detector, load
from htc_fast.device import autocast
from htc_fast.errors import UserError
from htc_fast.evaluation import coco
from htc_fast.inference.predict import at_stage
from htc_fast.training import Trainer, TrainingRun, checkpoint
from htc_fast.training.trainer import make_config

SCORES = "scores.json"
WHOLE = "htc_r50"  # the model that has all parts of the others


@dataclass(frozen=True)
class Task:
    """What to do for one model and seed.

    run        its training
    stages     which stages are to be tested alone; None: all together
    val_limit  held-out pictures that count; None: all
    """

    run: TrainingRun
    stages: tuple[int | None, ...]
    val_limit: int | None = None

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(str(self.run.out))

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.run.model}, seed {self.run.seed}"

    def scores(self) -> dict[str, Any] | None:
        """What an earlier call left; None where something is still to be done."""
        found = _read(self.folder / SCORES)
        return found if all(key(stage) in found.get("stages", {}) for stage in self.stages) else None


def key(stage: int | None) -> str:
    """How scores name a stage."""
    return "ensemble" if stage is None else f"stage {stage}"


def carry_out(task: Task) -> dict[str, Any] | None:
    """Train, unless that is done, then test what is not tested yet.

    returns  the scores, which are in the folder too; None after a wish to stop
    raises   UserError for data or options that cannot be used; KeyboardInterrupt for a wish to stop in a test
    """
    run, weights, began = task.run, task.folder / "model.safetensors", time.process_time()
    scores = {"model": run.model, "seed": run.seed, "stages": {}, **_read(task.folder / SCORES)}
    # Written at the end of training, and whole or not at all.
    if not weights.exists():
        trainer = Trainer(run)
        if run.weights is None:
            share_start(trainer.model, run)
        # The tests below are all that counts: small and large by the boxes' areas, as the paper has them.
        trainer.loop.evaluate = trainer.loop.picture = None
        trainer.run()
        if trainer.loop.stopping:
            return None
        scores |= {"iterations": trainer.loop.at.iteration, "training seconds": round(trainer.loop.at.seconds, 1)}
        _write(task.folder / SCORES, scores)
    # A call that ended behind the weights did not say so.
    scores.setdefault("iterations", checkpoint.iteration_of(weights))
    model = _trained(weights, run.device)
    data = CocoDataset(run.data, "val", annotations=run.val_json, images=run.val_images, semantic="none")
    data = data.relabelled(names_for(model.config, data.annotations, data.path.name))
    for stage in task.stages:
        if key(stage) not in scores["stages"]:
            scores["stages"][key(stage)] = test(model, data, task, stage)
            now = time.process_time()
            scores["processor seconds"] = round(scores.get("processor seconds", 0.0) + now - began, 1)
            began = now
            _write(task.folder / SCORES, scores)
    shutil.rmtree(task.folder / "checkpoints", ignore_errors=True)
    return scores


def _trained(weights: Path, device: str | None) -> Detector:
    try:
        return load(weights, device=device)
    except UserError as error:
        raise UserError(f"{error} Delete {weights.parent}, and it is trained again.") from None


def test(model: Detector, data: CocoDataset, task: Task, stage: int | None) -> dict[str, Any]:
    """Metrics of one stage, or of all together, with how many pictures and seconds it took."""
    began = time.monotonic()
    device = next(model.parameters()).device
    with torch.no_grad(), autocast(device, task.run.amp), at_stage(model, stage):
        found = coco.collect(model, data, limit=task.val_limit)
    metrics = {name: round(number, 6) for name, number in coco.score(data, found, box_areas=True).metrics.items()}
    return {**metrics, "pictures": len(found), "seconds": round(time.monotonic() - began, 1)}


def share_start(model: Detector, run: TrainingRun) -> None:
    """Give a fresh model the initial values that all models of this seed have, wherever shapes are the same.

    Drawn in the order of its own parts, a model with one part more would begin elsewhere in every part behind it.
    """
    own = model.config
    config = make_config(TrainingRun(**{**vars(run), "model": WHOLE}))
    torch.manual_seed(run.seed)
    # Data without maps know no semantic classes, so that these must not decide what is drawn.
    fields = {"num_classes": own.num_classes, "semantic_classes": 1, "class_names": (), "category_ids": ()}
    whole = Detector(type(config)(**{**vars(config), **fields, "pretrained": False}))
    values = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = values.get(name)
            if not name.startswith("backbone.") and drawn is not None and drawn.shape == parameter.shape:
                parameter.copy_(drawn)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    checkpoint.write_whole(path, json.dumps(content, indent=1).encode())
