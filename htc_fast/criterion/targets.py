"""Checks at the door of the training step: one sentence for ground truth that it cannot take."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.models.config import Model
from htc_fast.models.inputs import check_numbers
from htc_fast.models.structures import UNLABELLED, Targets, may_wait
from htc_fast.ops._arguments import check_device


def check_targets(config: Model, images: Tensor, targets: Any) -> Targets:
    """The targets, with room for one object where there is none.

    raises  TypeError, ValueError where they are no targets of these images; values are looked at where that costs
            nothing
    """
    if not all(hasattr(targets, name) for name in ("boxes", "labels", "masks", "semantic")):
        raise TypeError(f"targets must be models.structures.Targets, got {type(targets).__name__}.")
    check_numbers("targets.boxes", targets.boxes)
    check_numbers("targets.labels", targets.labels, (torch.int64,))
    check_numbers("targets.masks", targets.masks)
    count, (height, width) = targets.labels.shape[-1] if targets.labels.dim() else 0, images.shape[2:]
    shapes = {
        "labels": [len(images), count],
        "boxes": [len(images), count, 4],
        "masks": [len(images), count, height, width],
    }
    if getattr(targets, "numbers", None) is not None or getattr(targets, "layers", None) is not None:
        shapes |= _check_layers(targets, [len(images), count], [height, width])
    if config.semantic != "none":
        if targets.semantic is None:
            raise ValueError(
                "the model has a semantic branch, but the targets hold no semantic map: give Targets.semantic, "
                'or build the model with semantic="none".'
            )
        check_numbers("targets.semantic", targets.semantic, (torch.int64,))
        shapes["semantic"] = [len(images), height // 8, width // 8]
    for name, wanted in shapes.items():
        one = getattr(targets, name)
        if list(one.shape) != wanted:
            raise ValueError(f"targets.{name} must be {wanted} for these images and labels, got {list(one.shape)}.")
        check_device(f"targets.{name}", one, "the images", images)
    if may_wait(targets.labels):
        _check_values(config, targets)
    return targets if count else _with_room(targets)


def _check_layers(targets: Any, rows: list[int], size: list[int]) -> dict[str, list[int]]:
    """The shapes that masks, numbers and layers must have where objects share index maps."""
    for name in ("numbers", "layers"):
        if getattr(targets, name, None) is None:
            raise ValueError(
                f"targets.{name} is missing: masks that are index maps come with targets.numbers and targets.layers, "
                "both [N, G]; bitmaps [N, G, H, W] with neither."
            )
        check_numbers(f"targets.{name}", getattr(targets, name), (torch.int64,))
    check_numbers("targets.masks", targets.masks, (torch.int16, torch.int32))
    depth = targets.masks.shape[1] if targets.masks.dim() == 4 else 1
    return {"masks": [rows[0], max(depth, 1), *size], "numbers": rows, "layers": rows}


def _check_values(config: Model, targets: Targets) -> None:
    labels, real = targets.labels, targets.labels >= 0
    wrong = labels[(labels < -1) | (labels >= config.num_classes)]
    if len(wrong):
        raise ValueError(
            f"targets.labels must be classes below {config.num_classes}, or -1 where padded, got {int(wrong[0])}."
        )
    boxes = targets.boxes[real]
    wrong = boxes[~(boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1))]
    if len(wrong):
        raise ValueError(f"targets.boxes must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, got {wrong[0].tolist()}.")
    if targets.layers is not None:
        wrong = targets.layers[(targets.layers < 0) | (targets.layers >= targets.masks.shape[1])]
        if len(wrong):
            raise ValueError(
                f"targets.layers must be layers of targets.masks, below {targets.masks.shape[1]}, got {int(wrong[0])}."
            )
    semantic, classes = targets.semantic, config.semantic_classes
    if config.semantic != "none" and semantic is not None:
        wrong = semantic[((semantic < 0) | (semantic >= classes)) & (semantic != UNLABELLED)]
        if len(wrong):
            raise ValueError(f"targets.semantic must be classes below {classes} or {UNLABELLED}, got {int(wrong[0])}.")


def _with_room(targets: Targets) -> Targets:
    images = len(targets.labels)
    boxes, labels = targets.boxes.new_zeros(images, 1, 4), targets.labels.new_full((images, 1), -1)
    if targets.numbers is not None:
        none = torch.zeros_like(labels)
        return Targets(boxes, labels, targets.masks, targets.semantic, none, none)
    return Targets(boxes, labels, targets.masks.new_zeros(images, 1, *targets.masks.shape[2:]), targets.semantic)
