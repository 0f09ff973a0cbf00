"""Proposals of a region proposal network: from its maps to the best boxes in one call, with fixed shapes.

No anchor tensor is built, since a box follows from its index in the map, and no map is sorted: of 200 000 logits a
thousand are wanted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.errors import short
from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_floats, check_sizes, check_tensors, count, items, real, reals
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import propose as reference

MOST_LEVELS, MOST_ANCHORS = 8, 128  # what the kernels' arguments have room for
_backend.register("propose", "cpp", "cuda", "triton")


def propose(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    strides: Sequence[float | tuple[float, float]],
    image_sizes: Tensor,
    anchors: Sequence[Sequence[Sequence[float]] | Tensor],
    *,
    per_level: int = 1000,
    limit: int = 1000,
    iou_threshold: float = 0.7,
    min_size: float = 0.0,
    delta_std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes of a pyramid: per level the best anchors, moved, clipped, NMS; over all levels the best of these.

    objectness     L maps of logits [N, A, h_l, w_l], 1 to 8 of them; A may differ by level
    deltas         L maps [N, 4A, h_l, w_l]: dx, dy, dw, dh of the first anchor, then of the next
    strides        per level the image's pixels per pixel of the map: one number, or (down, across)
    image_sizes    [N, 2]  height, width: boxes are clipped to it
    anchors        per level A boxes x1, y1, x2, y2 in pixels, around the place of the map's first pixel: numbers, or a
                   tensor [A, 4] on the CPU; at most 128 in all
    per_level      candidates per level before NMS
    limit          P, of all levels together
    iou_threshold  a box goes if its IoU with a better one of its level is larger
    min_size       both sides must be longer, in pixels after clipping
    delta_std      what deltas are multiplied by
    returns        boxes [N, P, 4] float32, scores [N, P] float32 (sigmoid), valid [N, P] bool; best first, zeros where
                   padded; no gradient. Equal logits: the lower level first, then by row, column, anchor. Logits and
                   deltas that are not finite give no box
    raises         ValueError, TypeError
    source         Faster R-CNN, section 3; FPN, section 4.1; candidates by logit as torchvision and detectron2 choose
                   them, sides changed by a factor of 62.5 at most as in mmdetection
    """
    objectness, deltas = items("objectness", objectness), items("deltas", deltas)
    _check_maps(objectness, deltas, image_sizes)
    steps, flat = steps_of(strides, len(objectness)), flat_anchors(anchors, objectness)
    per_level, limit = count("per_level", per_level), count("limit", limit)
    iou_threshold, min_size = real("iou_threshold", iou_threshold), real("min_size", min_size)
    if min_size < 0:
        raise ValueError(f"min_size must not be negative, got {min_size}.")
    logits, moves = [one.detach() for one in objectness], [one.detach() for one in deltas]
    std = reals("delta_std", delta_std, 4)
    arguments = logits, moves, image_sizes, flat, steps, per_level, limit, iou_threshold, min_size, std
    backend = _backend.backend_for("propose", objectness[0])
    if backend == "reference":
        return reference.propose(*arguments)
    return _backend.library(backend).propose(*arguments)


def _check_maps(objectness: list[Tensor], deltas: list[Tensor], image_sizes: Tensor) -> None:
    if not 1 <= len(objectness) <= MOST_LEVELS or len(deltas) != len(objectness):
        raise ValueError(
            f"expected 1 to {MOST_LEVELS} levels, as many of deltas as of objectness, got {len(objectness)} and "
            f"{len(deltas)}."
        )
    check_tensors(image_sizes=image_sizes, **{f"objectness[{number}]": one for number, one in enumerate(objectness)})
    check_tensors(**{f"deltas[{number}]": one for number, one in enumerate(deltas)})
    first = objectness[0]
    check_floats("objectness", first)
    for number, (logits, moves) in enumerate(zip(objectness, deltas)):
        if logits.dim() != 4 or logits.shape[0] != first.shape[0]:
            raise ValueError(
                f"objectness must be [N, A, h, w] with one N, got {list(logits.shape)} in level {number} and "
                f"{list(first.shape)} in level 0."
            )
        wanted = [logits.shape[0], 4 * logits.shape[1], *logits.shape[2:]]
        if list(moves.shape) != wanted:
            raise ValueError(f"deltas of level {number} must be [N, 4A, h, w] = {wanted}, got {list(moves.shape)}.")
        for one in (logits, moves):
            if one.dtype != first.dtype or one.device != first.device:
                raise TypeError(
                    f"all maps must be {first.dtype} on {first.device} like level 0's objectness, got {one.dtype} on "
                    f"{one.device} in level {number}."
                )
    check_sizes(image_sizes)
    if list(image_sizes.shape) != [first.shape[0], 2] or image_sizes.device != first.device:
        raise ValueError(
            f"image_sizes must be [N, 2] = [{first.shape[0]}, 2] on {first.device}, got {list(image_sizes.shape)} on "
            f"{image_sizes.device}."
        )


def steps_of(strides: Sequence[float | tuple[float, float]], levels: int) -> list[float]:
    """Down and across of every level, one after the other.

    raises  ValueError
    """
    given = items("strides", strides)
    if len(given) != levels:
        raise ValueError(f"strides must be one per level, {levels} in all, got {len(given)}.")
    steps: list[float] = []
    for one in given:
        pair = isinstance(one, Sequence) or getattr(one, "ndim", 0) > 0
        steps += reals("a level's stride", one, 2) if pair else [real("a stride", one)] * 2
    if not all(0 < step < math.inf for step in steps):
        raise ValueError(f"strides must be positive numbers or pairs (down, across) of them, got {steps}.")
    return steps


def flat_anchors(anchors: Sequence[Sequence[Sequence[float]] | Tensor], objectness: list[Tensor]) -> list[float]:
    """All levels' anchors, one number after the other.

    raises  ValueError
    """
    given = items("anchors", anchors)
    if len(given) != len(objectness):
        raise ValueError(f"anchors must be given for every level, {len(objectness)} in all, got {len(given)}.")
    flat: list[float] = []
    for number, (some, logits) in enumerate(zip(given, objectness)):
        if isinstance(some, Tensor):
            if some.device.type != "cpu":
                raise ValueError(f"anchors must be numbers or tensors on the CPU, got {some.device}: give .tolist().")
            some = some.tolist()
        try:
            rows = [[float(value) for value in row] for row in some]
        except (TypeError, ValueError, OverflowError):
            rows = [[]]
        if len(rows) != logits.shape[1] or any(
            len(row) != 4 or not all(abs(value) < math.inf for value in row) for row in rows
        ):
            raise ValueError(
                f"anchors of level {number} must be [A, 4] finite numbers with A = {logits.shape[1]} as in objectness, "
                f"got {short(some)}."
            )
        flat += [value for row in rows for value in row]
    if len(flat) > 4 * MOST_ANCHORS:
        raise ValueError(f"expected at most {MOST_ANCHORS} anchors in all levels, got {len(flat) // 4}.")
    return flat


def _fake(objectness, deltas, image_sizes, anchors, strides, per_level, limit, *options):
    first, images = objectness[0], objectness[0].shape[0]
    boxes = first.new_empty(images, limit, 4, dtype=torch.float32)
    return boxes, boxes.new_empty(images, limit), boxes.new_empty(images, limit, dtype=torch.bool)


declare(
    "propose(Tensor[] objectness, Tensor[] deltas, Tensor image_sizes, float[] anchors, float[] strides, "
    "int per_level, int limit, float iou_threshold, float min_size, float[] delta_std) -> (Tensor, Tensor, Tensor)",
    _fake,
    triton="propose",
)
