"""`python -m htc_fast.train`: train a detector on a COCO-format data set, or, with no data named, on the sample."""

import argparse
import sys
from pathlib import Path

import torch

from htc_fast.commands import entry
from htc_fast.commands.options import Parser
from htc_fast.data.sample import make_sample_dataset
from htc_fast.training import distributed, presets
from htc_fast.training import run as train_setup
from htc_fast.training.loop import Trainer

STOPPED = 130  # as a shell names a program that Ctrl-C ended: `train && evaluate` must not go on


def parser() -> argparse.ArgumentParser:
    """All options; what is left out comes from `training.presets`."""
    made = Parser(
        prog="python -m htc_fast.train",
        description="Train Hybrid Task Cascade. With no data named, a small one is trained on sample pictures.",
    )
    _data_options(made.add_argument_group("data"))
    _model_options(made.add_argument_group("model"))
    _recipe_options(made.add_argument_group("recipe"))
    _run_options(made.add_argument_group("run"))
    return made


def _data_options(group) -> None:
    add = group.add_argument
    add("--data", type=Path, metavar="ROOT", help="COCO-format folder: annotations/, train2017/, val2017/")
    add("--train-json", type=Path, help="annotation file to train on, instead of the one in ROOT")
    add("--train-images", type=Path, help="folder of its pictures")
    add("--val-json", type=Path, help="annotation file to evaluate on")
    add("--val-images", type=Path, help="folder of its pictures")
    add("--semantic", type=Path, help="COCO-Stuff folder, panoptic JSON or its PNGs; derive: of the masks")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short side and, optionally, longest long side")
    add("--scales", type=float, nargs=2, metavar=("LOW", "HIGH"), help="random factor on the size in training")
    add(
        "--train-sizes",
        type=int,
        nargs=3,
        metavar=("LOW", "HIGH", "LONG"),
        help="short side drawn from LOW to HIGH in training, long side at most LONG; the paper's: 400 1400 1600",
    )
    add("--crop", type=int, metavar="PX", help="train on random squares of this many pixels")
    add("--flip", choices=("none", "horizontal", "both"), help="random flips in training")
    add("--turn", action=argparse.BooleanOptionalAction, help="random quarter turns in training")
    add("--workers", type=int, help="processes that load pictures; 0: load in the training process")


def _model_options(group) -> None:
    add = group.add_argument
    add("--model", help="name of the network: see htc_fast.list_models()")
    add("--weights", type=Path, help="start from this checkpoint: ours, mmdetection's, torchvision's or detectron2's")
    add("--backbone", help="any timm model with features at strides 4 to 32")
    add("--pretrained", action=argparse.BooleanOptionalAction, help="ImageNet weights for the backbone")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the model's configuration",
    )


def _recipe_options(group) -> None:
    add = group.add_argument
    add("--epochs", type=float, help="passes over the training pictures")
    add("--iterations", type=int, help="end after this many steps, if that is sooner")
    add("--max-minutes", type=float, help="end after this time, if that is sooner; the schedule fits itself to it")
    add("--batch-size", type=int, help="pictures per process and batch")
    add("--accumulate", type=int, help="batches per step")
    add("--lr", type=float, help="learning rate; by default 0.02 per 16 pictures in a step")
    add("--schedule", choices=("step", "cosine"), help="step: a tenth after 16/20 and after 19/20 of the run")
    add("--warmup", type=int, help="iterations of linear warm-up")
    add("--optimizer", help="sgd or adamw")
    add("--weight-decay", type=float)
    add("--clip", type=float, metavar="NORM", help="largest norm of the gradient")
    add("--amp", action=argparse.BooleanOptionalAction, help="compute in bf16 where that is safe and the device can")
    add("--compile", action="store_true", help="torch.compile for the layers; same gradients, slower to start")
    add("--seed", type=int)


def _run_options(group) -> None:
    add = group.add_argument
    add("--out", type=Path, help="folder for checkpoints, metrics, curves and pictures")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add("--evaluate-every", type=int, metavar="EPOCHS", help="0: only at the end")
    add("--save-every", type=int, metavar="ITERATIONS", help="0: only at evaluations and at the end")
    add("--keep", type=int, help="checkpoints kept")
    add("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    add("--threads", type=int, help="CPU threads")


def main() -> int:
    """Train, as the options say."""
    options = parser().parse_args()
    sample = options.data is None and options.train_json is None
    options = train_setup.check(presets.fill(options, presets.SAMPLE if sample else presets.PAPER))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    world = distributed.start(options.device)
    try:
        options.out = train_setup.choose_folder(options, world)
        if sample:
            options.data = make_sample_dataset()
        config = train_setup.make_config(options)
        train, val = train_setup.make_datasets(options, semantic=config.semantic != "none")
        model = train_setup.make_model(config, options, train)
        trainer = Trainer(
            model,
            train_setup.make_batches(options, train, config, world),
            train_setup.make_recipe(options, world),
            options.out,
            world,
            evaluate=val and train_setup.make_evaluation(val, world),
            picture=val and train_setup.make_picture(val),
        )
        if world.is_main:
            print(train_setup.describe(options, model, train, val, trainer), file=sys.stderr)
        if options.resume and not trainer.resume() and world.is_main:
            print(f"nothing to resume in {options.out}: starting anew.", file=sys.stderr)
        trainer.run()
    finally:
        distributed.stop()
    return STOPPED if trainer.stopping else 0


if __name__ == "__main__":
    entry.run(main)
