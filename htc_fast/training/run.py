"""From the command line's options to data, model and recipe."""

import ast
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from htc_fast.data import CocoDataset
from htc_fast.data.coco import say_maps
from htc_fast.data.loader import Collate
from htc_fast.data.pictures import image_size
from htc_fast.data.transforms import train_transform
from htc_fast.detector import Detector
from htc_fast.device import find_device, supports
from htc_fast.errors import UserError
from htc_fast.evaluation import coco
from htc_fast.inference.draw import side_by_side
from htc_fast.models import zoo
from htc_fast.models.weights import imagenet
from htc_fast.models.weights.load import load_weights
from htc_fast.training.batches import Batches
from htc_fast.training.compiled import compile_layers
from htc_fast.training.distributed import World
from htc_fast.training.optimizer import Schedule, scaled_rate
from htc_fast.training.recipe import Recipe

POSITIVE = "epochs iterations max_minutes batch_size accumulate lr clip crop threads keep".split()
NOT_NEGATIVE = "warmup weight_decay evaluate_every save_every workers".split()
# What --set leaves alone, and who decides it.
DECIDED = {"name": "--model", "pretrained": "--pretrained", "image_size": "--image-size"}
DECIDED |= dict.fromkeys(("num_classes", "semantic_classes", "class_names", "category_ids"), "the data")


def check(options: Namespace) -> Namespace:
    """Refuse numbers that make no sense.

    raises  UserError naming the option
    """
    for names, least in ((POSITIVE, "more than 0"), (NOT_NEGATIVE, "at least 0")):
        for name in names:
            value = getattr(options, name)
            enough = value is None or (math.isfinite(value) and (value > 0 or (value == 0 and names is NOT_NEGATIVE)))
            if not enough:
                raise UserError(f"--{name.replace('_', '-')} must be {least}, got {value}.")
    if not 0 < options.scales[0] <= options.scales[1] < math.inf:
        raise UserError(f"--scales takes two factors, the smaller first, got {options.scales[0]} {options.scales[1]}.")
    if options.train_sizes is not None and not 32 <= options.train_sizes[0] <= options.train_sizes[1]:
        raise UserError(f"--train-sizes takes LOW HIGH LONG with 32 <= LOW <= HIGH, got {options.train_sizes}.")
    if (options.train_json is None) != (options.train_images is None) and options.data is None:
        raise UserError("--train-json and --train-images belong together: give both, or --data with the root folder.")
    for name in DECIDED.keys() & parse_fields(options.set).keys():
        raise UserError(f"--set {name} is not to be set: {DECIDED[name]} decides it.")
    if options.device is not None:
        find_device(options.device)
    return options


def choose_folder(options: Namespace, world: World) -> Path:
    """Where the run goes: --out, or the next free default folder; with --resume the last one used.

    raises  UserError if --out holds another run
    """
    folder = Path(options.out)
    numbered = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))]
    _check_place(folder)
    free = next(number for number, each in enumerate(numbered) if not (each / "checkpoints").is_dir())
    world.barrier()
    if options.out_given:
        if free and not options.resume:
            raise UserError(f"{folder} holds a run already: go on with --resume, or give another --out.")
        return folder
    return numbered[max(free - 1, 0) if options.resume else free]


def _check_place(folder: Path) -> None:
    """Hours of training must not end at a folder that cannot be written.

    raises  UserError if it cannot
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written" if there.is_dir() else "is a file"
        raise UserError(f"results cannot go to {folder}, as {there} {reason}: choose another --out.")


def make_datasets(options: Namespace, semantic: bool) -> tuple[CocoDataset, CocoDataset | None]:
    """The training pictures with their augmentation, and the validation pictures, if any are named."""
    short, long = image_size(options.image_size)
    if options.train_sizes is not None:
        *short, long = options.train_sizes
    transform = train_transform(
        short,
        long,
        flip=0.0 if options.flip == "none" else 0.5,
        vertical_flip=0.5 if options.flip == "both" else 0.0,
        crop=options.crop,
        scale=tuple(options.scales),
        turn=options.turn,
    )
    train = CocoDataset(
        options.data,
        "train",
        annotations=options.train_json,
        images=options.train_images,
        semantic=options.semantic if semantic else "none",
        transform=transform,
    )
    if options.semantic is None:
        say_maps(train)
    if options.data is None and options.val_json is None:
        return train, None
    paths = {"annotations": options.val_json, "images": options.val_images}
    val = CocoDataset(options.data, "val", **paths, semantic="none", classes=train.classes)
    if not val.annotations.labelled:
        raise UserError(f"{val.path} has no annotations, so there is no AP: name another file with --val-json.")
    return train, val


def make_config(options: Namespace):
    """The network's configuration, but for the number of classes, which the data knows."""
    overrides = parse_fields(options.set)
    if options.backbone is not None:
        overrides["backbone"] = options.backbone
    if str(options.semantic) == "none":
        # Without maps there is nothing for the branch to learn.
        overrides["semantic"] = "none"
    _check_fields(overrides, zoo.config(options.model))
    try:
        config = zoo.config(options.model, **overrides)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"--set: {error}") from error
    if options.pretrained and imagenet.packaged_file(config.backbone):
        config = replace(config, mean=imagenet.PACKAGED_MEAN, std=imagenet.PACKAGED_STD)
    return config


def parse_fields(pairs: list[str]) -> dict:
    """FIELD=VALUE pairs, values as Python writes them; what Python cannot read is text."""
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes FIELD=VALUE, such as channels=128, got {pair!r}.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _check_fields(values: dict, base) -> None:
    """A value that was set must be of the kind that stands there, and counts must count something.

    raises  UserError naming the field
    """
    known = {**vars(base.stages), **{f"rpn_{name}": value for name, value in vars(base.rpn).items()}, **vars(base)}
    for name, value in values.items():
        before = known.get(name)
        if before is None:
            continue
        kinds = (int, float) if isinstance(before, float) else (type(before),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(before, bool):
            raise UserError(f"--set {name} takes {type(before).__name__}, such as {before!r}, got {value!r}.")
        if type(before) is int and value < (name != "frozen_stages"):
            raise UserError(f"--set {name} takes a number of at least {int(name != 'frozen_stages')}, got {value}.")


def make_model(config, options: Namespace, train: CocoDataset) -> Detector:
    """The detector, with ImageNet or other weights to start from."""
    file = imagenet.packaged_file(config.backbone) if options.pretrained else None
    downloads = options.pretrained and file is None and options.weights is None and not options.resume
    sizes = {"num_classes": len(train.classes), "semantic_classes": max(train.semantic_classes, 1)}
    sizes |= {"class_names": tuple(train.classes), "category_ids": tuple(train.category_ids)}
    sizes["image_size"] = image_size(options.image_size)
    torch.manual_seed(options.seed)
    try:
        model = Detector(replace(config, pretrained=downloads, **sizes))
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of {config.backbone} cannot be had ({str(error).splitlines()[0]}): go online once, "
            f"or train with --no-pretrained or --backbone {imagenet.PACKAGED}, whose weights a package carries."
        ) from error
    if file is not None:
        imagenet.load_packaged(model.backbone.net, file)
    if options.weights is not None:
        _start_from(model, options.weights)
    if options.compile:
        compile_layers(model)
    return model


def _start_from(model: Detector, weights: Path) -> None:
    """Load what fits: last layers for other classes keep their fresh values.

    raises  UserError if anything else differs
    """
    report = load_weights(model, weights, strict=False)
    last = ("classes", "deltas", "logits")
    foreign = [key for key in report.wrong_shape if key.split(" ")[0].split(".")[-2] not in last]
    if report.missing or foreign:
        raise UserError(
            f"{weights} holds weights of another architecture than {model.config.name} on {model.config.backbone} "
            f"({report}): choose --model, --backbone and --set as the file was trained with."
        )
    print(f"{weights}: {report}", file=sys.stderr)


def make_evaluation(val: CocoDataset, world: World) -> Callable[[Detector], dict[str, float]]:
    """Model -> AP of boxes and masks; every process predicts its share, the leading one gets the numbers."""

    def evaluate(model: Detector) -> dict[str, float]:
        found = coco.collect(model, val, rank=world.rank, world=world.size, progress=sys.stderr.isatty())
        found = coco.gather(found)
        return coco.score(val, found).metrics if world.is_main else {}

    return evaluate


def make_picture(val: CocoDataset, count: int = 6) -> Callable[[Detector, Path], None]:
    """(model, path) -> predictions beside the truth, for pictures spread over the validation set."""

    def draw(model: Detector, path: Path) -> None:
        chosen = sorted({round(i * (len(val) - 1) / max(count - 1, 1)) for i in range(count)})
        pictures = [val.image(index) for index in chosen]
        found = model.predict(pictures, score_threshold=0.5, class_names=val.classes)
        side_by_side([(p, one, val.truth(i)) for p, one, i in zip(pictures, found, chosen)]).save(path)

    return draw


def make_batches(options: Namespace, train: CocoDataset, config, world: World) -> Batches:
    """Endless training batches."""
    workers = options.workers
    if workers is None:
        # On a CPU the loader would take the cores that train.
        workers = 0 if world.device.type == "cpu" else min(8, (os.cpu_count() or 1) // world.size)
    collate = Collate(config.mean, config.std)
    return Batches(train, collate, options.batch_size, world, train.groups, options.seed, workers)


def make_recipe(options: Namespace, world: World) -> Recipe:
    """How long and how fast."""
    images = options.batch_size * options.accumulate * world.size
    rate = scaled_rate(images) if options.lr is None else options.lr
    return Recipe(
        schedule=Schedule(rate, options.schedule, warmup=options.warmup),
        epochs=options.epochs,
        iterations=options.iterations,
        minutes=options.max_minutes,
        optimizer=options.optimizer,
        weight_decay=options.weight_decay,
        accumulate=options.accumulate,
        amp=options.amp,
        clip=options.clip,
        evaluate_every=options.evaluate_every,
        save_every=options.save_every,
        keep=options.keep,
        log_every=10,
        seed=options.seed,
    )


def describe(options: Namespace, model: Detector, train: CocoDataset, val: CocoDataset | None, trainer) -> str:
    """The run in two lines."""
    config, recipe = model.config, trainer.recipe
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    images = options.batch_size * options.accumulate * trainer.world.size
    in_bf16 = " in bf16" if recipe.amp and supports(torch.bfloat16, trainer.world.device) else ""
    limits = [f"{recipe.epochs:g} epochs"]
    limits += [f"{recipe.iterations} iterations"] if recipe.iterations else []
    limits += [f"{recipe.minutes:g} minutes"] if recipe.minutes else []
    return (
        f"{config.name}, {config.backbone}, {millions:.1f} M parameters, on {trainer.world.size} x "
        f"{trainer.world.device.type}{in_bf16}: {len(train)} pictures to train on, "
        f"{len(val) if val else 'none'} held out, {len(train.classes)} classes\n"
        f"{images} pictures per step, learning rate {recipe.schedule.rate:g}, {recipe.schedule.shape} schedule, "
        f"until {' or '.join(limits)}; results in {options.out}"
    )
