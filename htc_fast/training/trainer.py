"""From a `TrainingRun` to data, model and loop: a training run as an object."""

import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from htc_fast import cores
from htc_fast.data.coco import CocoDataset, nothing_to_train_on, say_maps
from htc_fast.data.copy_paste import CopyPaste
from htc_fast.data.crops import say_few
from htc_fast.data.jitter import FACTORS, ScaleJitter
from htc_fast.data.loader import Collate
from htc_fast.data.repeat import repeat_factors
from htc_fast.data.sample import make_sample_dataset
from htc_fast.data.transforms import train_transform
from htc_fast.detector import Detector
from htc_fast.device import find_device, supports
from htc_fast.errors import UserError
from htc_fast.models import zoo
from htc_fast.models.config import Model
from htc_fast.models.weights import imagenet, source
from htc_fast.training import batch_size, checkpoint, distributed, dry_run, presets
from htc_fast.training.batches import Batches
from htc_fast.training.callbacks import Callback, check_callbacks
from htc_fast.training.compiled import compile_layers
from htc_fast.training.distributed import World
from htc_fast.training.evaluation import Evaluation, Forecast, make_picture
from htc_fast.training.folder import choose_folder
from htc_fast.training.graphs import check_graphs
from htc_fast.training.largest import largest_batch
from htc_fast.training.loggers import check_loggers, make_loggers
from htc_fast.training.loop import Loop
from htc_fast.training.run import TrainingRun
from htc_fast.training.start import start_from


class Trainer:
    """All that a run needs, made and ready; its folder is written to by `run` alone.

    run         everything that it is told
    world       this process among others; None: what torchrun started, or this one alone
    spent       seconds before this that count for the limit of time
    callbacks   one, or several, told of steps, evaluations and the end, behind the loggers that the run names
    settings    attribute: the run as it was asked for, with a number for a batch size of "auto"
    train, val  attributes: data sets; val is None where none is named
    model       attribute: the detector that learns
    loop        attribute: steps, checkpoints, evaluation
    raises      UserError for data, options or weights that cannot be used
    """

    def __init__(
        self,
        run: TrainingRun,
        world: World | None = None,
        spent: float = 0.0,
        callbacks: Callback | Sequence[Callback] = (),
    ):
        began, callbacks = time.monotonic() - spent, check_callbacks(callbacks)
        if run.device is not None:
            find_device(run.device)
        # Under torchrun, this process joins the others; `run` leaves them.
        self.world, self._joined = world or distributed.start(run.device), world is None
        # Compiled layers know their number of threads, and processes compute the same to the bit.
        if run.threads is not None or run.compile or self.world.size > 1:
            cores.hold(run.threads)
        if run.graphs:
            check_graphs(self.world)
        # In the leading process alone, which is who calls them.
        callbacks = [*make_loggers(check_loggers(run.log)), *callbacks] if self.world.is_main else []
        folder = choose_folder(run, self.world)
        config = make_config(run)
        source.check_file(None if run.resume else run.weights)  # before the sample is made or data is read
        self.settings = replace(run, data=make_sample_dataset()) if run.on_sample else run
        self.train, self.val = make_datasets(self.settings, config)
        if run.patience is not None and self.val is None:
            raise UserError("--patience needs held-out pictures to be evaluated on: name them, or leave it out.")
        about = describe_data(run, self.train, self.val)
        if not self.world.agree(zlib.crc32(about["training data"].encode())):
            raise UserError(f"{self.train.path} is not the same for all processes: give each of them the same files.")
        resumes = run.resume and bool(checkpoint.whole(folder / "checkpoints"))
        self.forecast = None if self.val is None else Forecast(self.val, self.world, run.amp)
        evaluation = None if self.val is None else Evaluation(self.val, self.world, run.amp)
        self.model = make_model(config, replace(run, resume=resumes), self.train)
        self.settings = batch_size.settled(self.settings, folder, self.model, self.train, self.world)
        run = replace(run, batch_size=self.settings.batch_size)
        recipe = run.plan(self.world.size)
        own = {"lr": recipe.schedule.rate, "processes": self.world.size, "device": self.world.device.type}
        self.loop = Loop(
            self.model,
            make_batches(run, self.train, config, self.world),
            recipe,
            folder,
            self.world,
            evaluate=evaluation,
            picture=None if self.val is None else make_picture(self.val, self.forecast, evaluated=evaluation),
            forecast=self.forecast,
            spent=time.monotonic() - began,
            about=about,
            callbacks=callbacks,
            settings={**_plain(run), **about, **own},
        )

    def run(self) -> Detector:
        """Train to the end, or until asked to stop; checkpoints, metrics and pictures are in `loop.folder`.

        A run that is dry (`dry_run`) is only tried: what it would take is printed.

        returns  the trained detector, in evaluation mode
        """
        self._introduce()
        if self.settings.resume and not self.loop.resume() and self.world.is_main:
            print(f"nothing to resume in {self.loop.folder}: starting anew.", file=sys.stderr)
        try:
            if self.settings.dry_run:
                found = self.rehearse()
                if self.world.is_main:
                    print(f"{found}\nnothing was left in {self.loop.folder}", file=sys.stderr)
            else:
                self.loop.run()
        finally:
            if self._joined:
                distributed.stop()
        return self.model.eval()

    def rehearse(self) -> dry_run.Rehearsal:
        """Try one step of everything; the weights are of no use afterwards, and nothing is left on the disk."""
        collate = Collate(self.model.config.mean, self.model.config.std)
        largest = largest_batch(self.train, self.settings.copy_paste, collate, self.loop.batches.batch_size)
        return dry_run.rehearse(self.loop, largest, self.forecast)

    def _introduce(self) -> None:
        """Say what the run is, and what of it makes no sense."""
        if self.world.is_main:
            print(self.describe(), file=sys.stderr)
            steps, warmup = math.ceil(self.loop.recipe.steps(len(self.loop.batches))), self.loop.recipe.schedule.warmup
            if warmup >= steps:
                print(
                    f"the warm-up is {warmup} of {steps} steps, so the learning rate never reaches its value: "
                    f"set warmup to {max(steps // 10, min(1, steps - 1))} or so (--warmup).",
                    file=sys.stderr,
                )

    def describe(self) -> str:
        """The run in two lines."""
        config, recipe, world = self.model.config, self.loop.recipe, self.world
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        images = self.loop.batches.batch_size * recipe.accumulate * world.size
        in_bf16 = " in bf16" if recipe.amp and supports(torch.bfloat16, world.device) else ""
        limits = [f"{recipe.epochs:g} epochs"]
        limits += [f"{recipe.iterations} iterations"] if recipe.iterations else []
        limits += [f"{recipe.minutes:g} minutes"] if recipe.minutes else []
        return (
            f"{config.name}, {config.backbone}, {millions:.1f} M parameters, on {world.size} x "
            f"{world.device.type}{in_bf16}: {len(self.train)} pictures to train on, "
            f"{len(self.val) if self.val else 'none'} held out, {len(self.train.classes)} classes\n"
            f"{presets.described(self.settings)}: {images} pictures per step, learning rate {recipe.schedule.rate:g}, "
            f"{recipe.schedule.shape} schedule, until {' or '.join(limits)}; results in {self.loop.folder}"
        )


def make_datasets(run: TrainingRun, config: Model) -> tuple[CocoDataset, CocoDataset | None]:
    """The training pictures with their augmentation, and the validation pictures, if any are named."""
    short, long = run.size
    sizes, jitters = config.train_sizes, run.jitter != "none"
    transform = train_transform(
        None if jitters else short if sizes is None else sizes[:2],
        long if sizes is None else sizes[2],
        flip=0.0 if run.flip == "none" else 0.5,
        vertical_flip=0.5 if run.flip == "both" else 0.0,
        crop=run.crop,
        scale=run.scales,
        turn=run.turn,
    )
    if jitters:
        jitter = ScaleJitter((run.image_size or run.size)[-1], FACTORS[run.jitter], config.mean)
        transform = v2.Compose([jitter, *transform.transforms])
    train = CocoDataset(
        run.data,
        "train",
        annotations=run.train_json,
        images=run.train_images,
        semantic=run.semantic if config.semantic != "none" else "none",
        keep_empty=run.keep_empty,
        transform=transform,
        layered=True,
        held_out=run.val_json is None,
        tile=run.tile,
    )
    if not any(train.annotations.trainable):
        sentence = str(nothing_to_train_on(train))
        if run.keep_empty:
            sentence += " Pictures without instances (--keep-empty) teach something only beside others."
        raise UserError(sentence)
    if run.semantic is None:
        say_maps(train)
    if run.tile is not None:
        say_few(train.path.name, [train.annotations.sizes[i] for i in train.keep], run.tile)
    if run.data is None and run.val_json is None:
        return train, None
    val = CocoDataset(run.data, "val", annotations=run.val_json, images=run.val_images, semantic="none", tile=run.tile)
    if not val.annotations.labelled:
        raise UserError(f"{val.path} has no annotations, so there is no AP: name another file with --val-json.")
    return train, val.relabelled(train.classes)


def describe_data(run: TrainingRun, train: CocoDataset, val: CocoDataset | None) -> dict[str, Any]:
    """What a run that goes on compares, besides its recipe and its network: the data, and how they are fed."""
    names = ("flip", "scales", "turn", "crop", "tile", "keep_empty", "jitter", "copy_paste", "repeat")
    sets = {"training data": train, "held-out data": val}
    return {
        **{name: getattr(run, name) for name in names},
        **{name: "none" if data is None else _checked(data) for name, data in sets.items()},
        "semantic maps": "none" if train.maps is None else type(train.maps).__name__,
    }


def _plain(run: TrainingRun) -> dict[str, Any]:
    """A run's fields, with paths as text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(run).items()}


def _checked(data: CocoDataset) -> str:
    """A data set in words that differ where its annotation file does."""
    checksum = 0
    with open(data.path, "rb") as file:
        while part := file.read(2**24):
            checksum = zlib.crc32(part, checksum)
    return f"{len(data)} pictures (checksum {checksum:08x})"


def make_config(run: TrainingRun) -> Model:
    """The network's configuration, but for what the data knows."""
    overrides = dict(run.set)
    if run.backbone is not None:
        overrides["backbone"] = run.backbone
    if str(run.semantic) == "none":
        # Without maps there is nothing for the branch to learn.
        overrides["semantic"] = "none"
    config = zoo.config(run.model, **overrides)
    own = presets.size_of(run.model)[0]
    config = replace(config, train_sizes=run.train_sizes or _scaled(config.train_sizes, run.size[0], own))
    if run.pretrained and imagenet.packaged_file(config.backbone):
        return replace(config, mean=imagenet.PACKAGED_MEAN, std=imagenet.PACKAGED_STD)
    return imagenet.with_own_pixels(config) if run.pretrained else config


def _scaled(sizes: tuple[int, int, int] | None, short: int, own: int) -> tuple[int, int, int] | None:
    """The sizes of a model that is trained at many, which go with its own short side, for that of this run."""
    if sizes is None:
        return None
    low, high, long = (max(32, round(side * short / own)) for side in sizes)
    return low, high, long


def make_model(config: Model, run: TrainingRun, train: CocoDataset) -> Detector:
    """The detector, with ImageNet or other weights to start from, unless a checkpoint brings its own (run.resume)."""
    file = imagenet.packaged_file(config.backbone) if run.pretrained else None
    downloads = run.pretrained and file is None and run.weights is None and not run.resume
    config = replace(
        config,
        pretrained=downloads,
        num_classes=len(train.classes),
        semantic_classes=max(train.semantic_classes, 1),
        class_names=tuple(train.classes),
        category_ids=tuple(train.category_ids),
        image_size=run.size,
    )
    torch.manual_seed(run.seed)
    model = Detector(config)
    if file is not None:
        imagenet.load_packaged(model.backbone.net, file)
    if run.weights is not None and not run.resume:
        start_from(model, run.weights, train)
    for backbone in model.backbones if run.checkpoint_backbone else ():
        backbone.checkpoint(True)
    if run.compile:
        compile_layers(model)
    return model


def make_batches(run: TrainingRun, train: CocoDataset, config: Model, world: World) -> Batches:
    """Endless training batches."""
    # On a CPU the loader would take the cores that train.
    usual = 0 if world.device.type == "cpu" else min(8, cores.usable_cores() // world.size)
    workers = usual if run.workers is None else run.workers
    collate = Collate(config.mean, config.std)
    samples = CopyPaste(train, run.copy_paste) if run.copy_paste else train
    repeats = repeat_factors(train, run.repeat) if run.repeat else None
    # Jittered samples are squares, so that no batch would be padded for an orientation.
    groups = train.groups if run.jitter == "none" else None
    assert run.batch_size != "auto"  # `batch_size.settled` has been there
    return Batches(samples, collate, run.batch_size, world, groups, run.seed, workers, repeats)
