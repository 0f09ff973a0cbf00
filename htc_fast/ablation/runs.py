"""All runs of an ablation: which there are, which are done, and how long the others will take."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from htc_fast.ablation.one import Task, carry_out
from htc_fast.ablation.run import AblationRun
from htc_fast.ablation.side import LOG, side_by_side
from htc_fast.ablation.tables import chosen, needed
from htc_fast.data.sample import make_sample_dataset
from htc_fast.device import find_device
from htc_fast.errors import UserError, short
from htc_fast.profiling.limits import machine
from htc_fast.training import TrainingRun, checkpoint
from htc_fast.training.distributed import World
from htc_fast.training.folder import held
from htc_fast.training.graphs import check_graphs
from htc_fast.training.trainer import describe_data, make_config, make_datasets

SETTINGS = "settings.json"
# What may change between two calls: how and where it is computed, and how often it is saved.
FREE = {"model", "seed", "out", "resume", "evaluate_every", "save_every", "keep"}
FREE |= {"log", "dry_run", "patience", "min_delta"}
FREE |= {"workers", "threads", "device", "graphs", "checkpoint_backbone"}
PLACES = {"data", "train_json", "train_images", "val_json", "val_images"}  # their content counts


def ablate(run: AblationRun, say: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """Do what is still to be done; the result so far, first of what was there, then after each run.

    say     told what is done, what it scored, and how long the others will take
    yields  what results.json holds
    raises  UserError for data or options that cannot be used, or others than those of the runs in the folder;
            KeyboardInterrupt where somebody wishes to stop: called again, it goes on
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UserError("an ablation starts its own processes (--jobs): start it without torchrun.")
    if run.graphs:
        check_graphs(World(device=find_device(run.device)))
    data = "the sample scenes" if run.on_sample else Path(str(run.data or run.train_json)).name
    run = replace(run, data=make_sample_dataset()) if run.on_sample else run
    settings = describe(run)
    with held(run.folder):
        check_settings(run.folder / SETTINGS, settings)
        tasks = plan(run)
        done = {task.name: scores for task in tasks if (scores := task.scores()) is not None}
        left = [task for task in tasks if task.name not in done]
        about = {"data": data, "machine": machine(find_device(run.device)), "settings": settings, "jobs": run.jobs}
        result = {**about, "tables": [table.number for table in chosen(run.tables)], "runs": list(done.values())}
        yield result
        logs = f"; what they say is in {run.folder}/runs/*/{LOG}" if run.jobs > 1 and left else ""
        say(f"{len(done)} of {len(tasks)} runs are there, {len(left)} to do{logs}")
        began = time.monotonic()
        for task, scores in carried_out(list(left), run.jobs):
            done[task.name] = scores
            left.remove(task)
            ready = [done[one.name] for one in tasks if one.name in done]
            say(f"{clock(time.monotonic() - began)}: {task.name}: {told(scores)}; {outlook(left, ready, run.jobs)}")
            yield {**result, "runs": ready}


def plan(run: AblationRun) -> list[Task]:
    """One task per model and seed; all of the first seed come first, so that whole tables stand early."""
    tasks = []
    for seed in range(run.seeds):
        for model, stages in needed(chosen(run.tables)).items():
            own = run.training(model, seed, run.folder / "runs" / f"{model}-seed{seed}")
            tasks.append(Task(own, stages, run.val_limit))
    return tasks


def carried_out(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task with its scores, in this process or in several beside it."""
    if jobs > 1 and len(tasks) > 1:
        yield from side_by_side(tasks, jobs)
        return
    for task in tasks:
        scores = carry_out(task)
        if scores is None:
            raise KeyboardInterrupt
        yield task, scores


def describe(run: AblationRun) -> dict[str, Any]:
    """What all runs have in common and must keep: the recipe and the data.

    raises  UserError if there is nothing to train on or to be scored on
    """
    train, val = make_datasets(run, make_config(run))
    if val is None:
        raise UserError("an ablation scores every run on held-out pictures: name some with --val-json, --val-images.")
    names = [one.name for one in fields(TrainingRun) if one.name not in FREE | PLACES]
    recipe = {name: getattr(run, name) for name in names}
    about = {**recipe, "val_limit": run.val_limit, **describe_data(run, train, val)}
    return json.loads(json.dumps(about, default=str))


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Keep the settings beside the runs; runs of others do not compare with these.

    raises  UserError naming what differs
    """
    if path.exists():
        try:
            then = json.loads(path.read_text())
        except ValueError:
            raise UserError(
                f"{path} is damaged, so nobody knows what the runs beside it are: give another --out."
            ) from None
        # What an earlier version did not know was as it is where nothing is said.
        usual = {one.name: one.default for one in fields(TrainingRun)}
        then = {name: then.get(name, usual.get(name)) for name in settings}
        changed = [name for name in settings if then[name] != settings[name]]
        if changed:
            words = [f"{name} was {short(then[name])} and is now {short(settings[name])}" for name in changed[:4]]
            raise UserError(
                f"{path.parent} holds runs of other settings ({', '.join(words)}), which do not compare: "
                "continue with those of then, or give another --out."
            )
    checkpoint.write_whole(path, json.dumps(settings, indent=1).encode())


def told(scores: dict[str, Any]) -> str:
    """A run's scores in a few words."""
    first = scores["stages"].get("ensemble") or next(iter(scores["stages"].values()))
    shown = " ".join(f"{name.replace('_', ' ')} {100 * first[name]:.1f}" for name in ("box_AP", "mask_AP", "mask_AP50"))
    return f"{shown}, {seconds(scores):.0f} s"


def seconds(scores: dict[str, Any]) -> float:
    """Of training and all tests of a run."""
    tests = sum(one["seconds"] for one in scores["stages"].values())
    return scores.get("training seconds", 0.0) + tests


def outlook(left: list[Task], done: list[dict[str, Any]], jobs: int) -> str:
    """How long the rest will take: what the same model took with another seed, or else the mean of all."""
    if not left:
        return "that was the last one"
    usual = statistics.fmean(map(seconds, done))
    own = {one["model"]: seconds(one) for one in done}
    total = sum(own.get(task.run.model, usual) for task in left) / min(jobs, len(left))
    return f"{len(left)} left, about {clock(total)}"


def clock(total: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3.5 h."""
    if total < 100:
        return f"{total:.0f} s"
    return f"{total / 60:.0f} min" if total < 6000 else f"{total / 3600:.1f} h"


def progress(sentence: str) -> None:
    """A line on stderr."""
    print(sentence, file=sys.stderr, flush=True)
