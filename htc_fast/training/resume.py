"""Going on from a checkpoint: what it was made with is compared with what is given now, and nothing differs unsaid.

What the weights or the optimizer's memory depend on must be the same. All else may change: the place in the run is a
share of an epoch, so batch size, number of processes and data may be others.
"""

import json
import math
from dataclasses import MISSING, asdict, fields, replace
from operator import index
from pathlib import Path
from typing import Any

import safetensors
import torch

from htc_fast.errors import UserError, few
from htc_fast.models.config import Model
from htc_fast.models.htc import HTC
from htc_fast.training import checkpoint
from htc_fast.training.ema import Average
from htc_fast.training.groups import regrouped
from htc_fast.training.optimizer import Schedule
from htc_fast.training.recipe import Position, Recipe
from htc_fast.training.run import TrainingRun

FORMAT = 2  # of the state; 1, which does not say so, has no recipe
# Fields that only sampling, losses or detection read; any other makes another network.
FREE = {"name", "pretrained", "category_ids", "image_size", "score_threshold", "nms_iou", "detections", "test_stage"}
FREE |= {"score_average", "samples", "positive_fraction", "semantic_loss_weight", "loss_weight", "low_quality_match"}
FREE |= {f"rpn_{name}" for name in ("samples", "positive_fraction", "positive_iou", "negative_iou", "low_quality_iou")}
FREE |= {f"rpn_{name}" for name in ("nms_iou", "train_proposals_per_level", "train_proposals", "proposals_per_level")}
FREE |= {"rpn_proposals", "rpn_allowed_border", "soft_nms", "train_sizes"}
FREE |= {"box_loss", "box_loss_weight", "global_context_loss_weight", "drop_path"}
OPTIONS = {"name": "model", "num_classes": "number of classes", "class_names": "classes", "mean": "pretrained (mean)"}
OPTIONS |= {"backbone": "backbone", "semantic_classes": "classes of the semantic maps", "std": "pretrained (std)"}
OPTIONS |= {"image_size": "image_size", "minutes": "max_minutes", "rate": "lr", "shape": "schedule"}
QUIET = {"keep", "log_every", "save_every", "evaluate_every", "warmup_factor", "pretrained", "category_ids"}
QUIET |= {"graphs", "patience", "min_delta"}
# What a checkpoint of an earlier version does not say was as it is by default.
UNSAID = {one.name: one.default for kind in (TrainingRun, Schedule, Recipe) for one in fields(kind)}
UNSAID = {name: value for name, value in UNSAID.items() if value is not MISSING}
LENGTH = {"epochs", "iterations", "minutes"}


def state_of(
    optimizer: torch.optim.Optimizer,
    average: Average,
    recipe: Recipe,
    at: Position,
    feed: list[int],
    about: dict[str, Any],
) -> dict[str, Any]:
    """All that `restore` needs besides the weights."""
    return {
        "format": FORMAT,
        "recipe": asdict(recipe),
        "optimizer": optimizer.state_dict(),
        "position": asdict(at),
        "feed": feed,
        "about": about,
        **({"average": average.state()} if average.decay else {}),
    }


def restore(
    weights: Path,
    model: HTC,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    feed: list[int],
    about: dict[str, Any],
    average: Average,
) -> tuple[Position, list[str]]:
    """Put a checkpoint into model, optimizer and average.

    feed     batches per epoch and process, number of processes
    about    what else the run is made of, by name
    returns  where the run stands, and sentences on what differs from the run so far
    raises   UserError if the checkpoint is damaged, or of another network or optimizer
    """
    changed = _compare_networks(weights, model)
    average.hide()
    state = checkpoint.load(weights, model)
    try:
        if state.get("format", 1) > FORMAT:
            raise UserError(f"{weights} was written by a newer htc_fast: update this one to continue from it.")
        # "feed" is what files of version 0.1 call it.
        saved, (batches, processes), position = state["optimizer"], map(index, state["feed"]), _position(state)
        if batches < 1:
            raise ValueError(f"{batches} batches in an epoch")
        then, now = _flat(state.get("recipe", {})), _flat(asdict(recipe))
        then, now = then | dict(state.get("about", {})), now | about
        if "recipe" in state:
            then = {name: value for name, value in UNSAID.items() if name in now} | then
        moved = _restore_optimizer(weights, model, optimizer, saved, recipe)
        averaged = average.restore(state.get("average"))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise checkpoint.unusable(weights, f"{weights.stem}.state is no state of a run of ours") from error
    names = [name for name in then if name in now and then[name] != now[name] and name not in QUIET]
    changed += [_change(name, then[name], now[name]) for name in names]
    said = [f"going on with other settings than so far: {', '.join(changed)}."] if changed else []
    said += [sentence for sentence in (moved, averaged) if sentence]
    if position.lead and LENGTH & {*names}:
        position = replace(position, lead=0.0)
    if [batches, processes] != feed:
        converted = _converted(position, batches, feed[0])
        batch = converted.batch if converted.epoch == position.epoch else feed[0]
        here = f"goes on after {batch} of them, as {position.batch} of {batches} were done" if batch else "begins"
        said.append(
            f"an epoch is {feed[0]} batches in each of {feed[1]} processes, and was {batches} in each of {processes} "
            f"(other data, batch size or number of processes): epoch {position.epoch + 1} {here}."
        )
        position = converted
    return position, said


def _position(state: dict) -> Position:
    """raises  KeyError, TypeError or ValueError where it is none"""
    place = state["position"]
    counts = [index(place[name]) for name in ("iteration", "epoch", "batch")]
    seconds = [float(place["seconds"]), float(place.get("lead", 0.0))]
    if not all(0 <= one < math.inf for one in (*counts, *seconds)):
        raise ValueError("a place before the beginning")
    return Position(*counts, *seconds)


def nothing_left(
    recipe: Recipe, at: Position, batches_per_epoch: int, folder: Path, early: bool = False
) -> tuple[str, bool]:
    """A sentence if a resumed run has nothing left to train, else an empty one; whether its results are there too.

    early  whether its patience is over
    """
    given = {"epochs": recipe.epochs, "iterations": recipe.iterations, "max_minutes": recipe.minutes}
    given |= {"patience": recipe.patience}
    reached = [name for name, share in recipe.shares(at, batches_per_epoch).items() if share >= 1]
    in_time = recipe.minutes is None or at.seconds < 60 * recipe.minutes
    if not in_time or (not reached and recipe.share(at, batches_per_epoch) >= 1):
        reached.append("max_minutes")
    reached += ["patience"] if early else []
    if not reached or at.iteration == 0:
        return "", False
    finished = checkpoint.iteration_of(folder / "model.safetensors") == at.iteration
    end = "it ends as it is" if early else "it is evaluated as it is"
    end = f"this run had finished, with its results in {folder}" if finished else end
    epochs = at.epoch + at.batch / batches_per_epoch
    limits = " and ".join(f"{name} is {given[name]:g}" for name in reached)
    return (
        f"nothing is left to train, as {at.iteration} steps, {epochs:.4g} epochs and {at.seconds / 60:.3g} minutes are "
        f"done and {limits}: {end}; raise that to train on."
    ), finished


def _converted(at: Position, before: int, now: int) -> Position:
    """The same share of an epoch, counted in batches of another number per epoch."""
    epochs, batch = divmod(round(at.batch * now / before), now)
    return replace(at, epoch=at.epoch + epochs, batch=batch)


def _restore_optimizer(weights: Path, model: HTC, optimizer: torch.optim.Optimizer, saved: dict, recipe: Recipe) -> str:
    """Returns what there is to say of it."""
    then = "adamw" if "betas" in saved["param_groups"][0] else "sgd"
    if then != recipe.optimizer:
        raise UserError(
            f"{weights} was made with optimizer {then}, and now it is {recipe.optimizer}, which cannot use the "
            f"other's memory: continue with {then} (--optimizer {then}), or {_anew(weights)}."
        )
    order = [name for name, one in model.named_parameters() if one.requires_grad]
    # What is asked for now, as for all else of a recipe; the state brings that of then.
    own = [{name: group[name] for name in ("weight_decay", "factor", "names")} for group in optimizer.param_groups]
    state, moved = regrouped(saved, optimizer.param_groups, order)
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
    return "the optimizer's memory of each weight goes with it into its group of now." if moved else ""


def _compare_networks(weights: Path, model: HTC) -> list[str]:
    """What differs between a checkpoint's configuration and the model's, where it may.

    raises  UserError naming what may not
    """
    try:
        with safetensors.safe_open(weights, "pt") as file:
            then = _flat(json.loads((file.metadata() or {}).get("config", "{}")))
    except (OSError, safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise checkpoint.unusable(weights, f"{weights.name} is damaged ({error})") from error
    now = _flat(json.loads(json.dumps(asdict(model.config))))
    then = (_flat(json.loads(json.dumps(asdict(Model(name=""))))) if then else {}) | then
    names = [name for name in then if name in now and then[name] != now[name]]
    if "class_names" in names and then["class_names"]:
        names = [name for name in names if name != "num_classes"]
    foreign = [name for name in names if name not in FREE and not (name == "class_names" and not then[name])]
    if foreign:
        # A model's name says in one word what its fields say in many.
        shown = [name for name in names if name == "name"] + foreign
        raise UserError(
            f"{weights} was made with another network or other classes: "
            f"{', '.join(_change(name, then[name], now[name]) for name in shown[:6])}: "
            f"continue with those of then, or {_anew(weights)}."
        )
    return [_change(name, then[name], now[name]) for name in names if name not in QUIET and name != "class_names"]


def _anew(weights: Path) -> str:
    return f"start anew from its weights in another folder (--weights {weights}, or weights= in Python)"


def _change(name: str, then: Any, now: Any) -> str:
    shown = OPTIONS.get(name, name)
    if isinstance(then, list) and isinstance(now, list) and name == "class_names":
        order = " in another order" if sorted(then) == sorted(now) else ""
        return f"{shown} were {few(then)} and are now {few(now)}{order}"
    return f"{shown} was {_text(then)} and is now {_text(now)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "not set" if value is None else str(value)


def _flat(values: dict) -> dict[str, Any]:
    """Nested mappings as one, by the names that options have."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            prefix = "rpn_" if name == "rpn" else ""
            found |= {prefix + inner: one for inner, one in value.items()}
        else:
            found[name] = value
    return found
