"""torchvision's operators under torchvision's names, ours for a while."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms as their_batched_nms
from torchvision.ops import nms as their_nms

from htc_fast import ops
from htc_fast.integrations.torchvision import masks, pooling

_turn = threading.Lock()
_depth: list[None] = []  # one for each block that is open
_open: list[list[tuple[dict[str, Any], str, Any, Any]]] = []


@contextmanager
def patch_ops() -> Iterator[None]:
    """Put nms, batched_nms, roi_align, RoIAlign, MultiScaleRoIAlign and paste_masks_in_image in torchvision's places.

    Every module of torchvision that holds one of them by name holds ours inside `with patch_ops():`, for all threads,
    and torchvision's again behind it, also when an exception passes. What is imported from torchvision inside stays
    ours; modules that were built before keep what they are made of but for the functions.
    """
    with _turn:
        _depth.append(None)
        _open.append(list(_places()))
        for home, name, _, ours in _open[-1]:
            home[name] = ours
    try:
        yield
    finally:
        with _turn:
            _depth.pop()
            if not _depth:  # the last block to end, whichever began first
                while _open:
                    for home, name, theirs, _ in _open.pop():
                        home[name] = theirs


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`ops.nms`; quantized boxes are left to torchvision."""
    if torch.jit.is_scripting():
        return ops.nms(boxes, scores, iou_threshold)
    elif isinstance(boxes, Tensor) and boxes.is_quantized:
        return their_nms(boxes, scores, iou_threshold)
    else:
        return ops.nms(boxes, scores, iou_threshold)


def _places() -> Iterator[tuple[dict[str, Any], str, Any, Any]]:
    """A module's names, one of them, torchvision's object, ours."""
    pairs = [
        (their_nms, nms),
        (their_batched_nms, ops.batched_nms),
        (pooling.their_roi_align, pooling.roi_align),
        (pooling.TheirRoIAlign, pooling.RoIAlign),
        (pooling.Theirs, pooling.MultiScaleRoIAlign),
        (masks.theirs, masks.paste_masks_in_image),
    ]
    for key, module in list(sys.modules.items()):
        if module is not None and key.split(".")[0] == "torchvision":
            for name, value in list(vars(module).items()):
                for theirs, ours in pairs:
                    if value is theirs and theirs is not ours:
                        yield vars(module), name, theirs, ours
