"""`python -m htc_fast.train`: train a detector on a COCO-format data set, or, with no data named, on the sample."""

import argparse
import os
from pathlib import Path

from htc_fast import cli
from htc_fast.training import presets


def parser() -> argparse.ArgumentParser:
    """All options; what is left out comes from `training.presets`."""
    made = cli.Parser(
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
    add("--semantic", type=Path, help="folder of semantic maps (COCO-Stuff pixel maps or COCO panoptic PNGs)")
    add("--image-size", type=int, nargs="+", metavar="PX", help="short side and, optionally, longest long side")
    add("--scales", type=float, nargs=2, metavar=("LOW", "HIGH"), help="random factor on the size in training")
    add("--crop", type=int, metavar="PX", help="train on random squares of this many pixels")
    add("--flip", choices=("none", "horizontal", "both"), help="random flips in training")
    add("--rotate", action="store_true", default=None, help="random quarter turns in training")
    add("--workers", type=int, help="processes that load pictures; 0: load in the training process")


def _model_options(group) -> None:
    add = group.add_argument
    add("--model", help="name of the network: see htc_fast.list_models()")
    add("--weights", type=Path, help="start from this checkpoint (ours, mmdetection's, torchvision's, detectron2's)")
    add("--backbone", help="any timm model with features at strides 4 to 32")
    add("--pretrained", action=argparse.BooleanOptionalAction, help="ImageNet weights for the backbone")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the model's configuration")


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
    add("--amp", action=argparse.BooleanOptionalAction, help="compute in bf16 where that is safe")
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
