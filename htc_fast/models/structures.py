"""What goes in and out: fixed shapes, padded, with -1 labels where nothing is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from htc_fast.models.config import Model

UNLABELLED = 255  # in a semantic map


@dataclass
class Detections:
    """What was found in N images, best first.

    boxes   [N, D, 4]       x1, y1, x2, y2 in pixels of the network's input
    scores  [N, D]
    labels  [N, D] int64    -1 where padded
    masks   [N, D, 28, 28]  probabilities inside each box
    count   [N] int32       how many are real
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    count: Tensor


@dataclass
class Targets:
    """Ground truth of N images.

    boxes     [N, G, 4]          pixels of the network's input
    labels    [N, G] int64       -1 where padded
    masks     [N, G, H, W] uint8 at the network's input size; or, with numbers and layers, [N, L, H, W] int16 or int32:
              layers of index maps, whose objects do not overlap within a layer
    semantic  [N, H/8, W/8] int64, 255 = unlabelled; or None
    numbers   [N, G] int64       what an object's pixels hold in its layer, > 0; or None
    layers    [N, G] int64       in which of the L layers an object lies; or None
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    semantic: Tensor | None = None
    numbers: Tensor | None = None
    layers: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Targets":
        return self._each(lambda one: one.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Targets":
        return self._each(lambda one: one.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        return Targets(**{name: None if one is None else change(one) for name, one in vars(self).items()})


class DetectorLike(Protocol):
    """What predicts pictures: a `Detector`, an `Optimized` one, or anything else with these.

    detect  images [N, 3, H, W], image_sizes [N, 2] -> Detections
    """

    config: Model
    training: bool

    def detect(self, images: Tensor, image_sizes: Tensor) -> Detections: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


@runtime_checkable
class FramedLike(DetectorLike, Protocol):
    """What sees every picture in one frame, as files of fixed shapes do: `inference.framed.Framed`.

    frame  [N, H, W]: how many pictures it sees at once, None for any number, and what each is scaled to fit into
    see    uint8 [3, h, w] of each picture, within the frame -> Detections, in pixels of the frame
    """

    frame: tuple[int | None, int, int]

    def see(self, pixels: list[Tensor]) -> Detections: ...


@runtime_checkable
class ViewsLike(Protocol):
    """What looks at a whole picture instead of a batch made for one network: `inference.views.Views`.

    look  pixels uint8 [3, h, w] and the size asked for, if any -> Detections [1, ...] in a frame of the picture, and
          that frame's height and width
    """

    config: Model
    training: bool

    def look(self, pixels: Tensor, size: tuple[int, int] | None) -> tuple[Detections, tuple[int, int]]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...


Predictor = DetectorLike | ViewsLike


def _flatten(detections: Detections) -> tuple[list[Tensor], None]:
    return [getattr(detections, entry.name) for entry in fields(Detections)], None


_pytree.register_pytree_node(
    Detections,
    _flatten,
    lambda values, _: Detections(*values),
    serialized_type_name="htc_fast.models.structures.Detections",
)


def may_wait(tensor: Tensor) -> bool:
    """Whether looking at values costs nothing: eager, on the CPU."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def trim(valid: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows [K, ...] that are valid [K], where looking costs nothing; all of them elsewhere."""
    if not may_wait(valid):
        return tensors
    return tuple(tensor[valid] for tensor in tensors)


def trim_columns(valid: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors [N, R, ...] cut behind the last column that is valid [N, R] in any image, at least one; elsewhere all."""
    if not may_wait(valid):
        return tensors
    used = valid.any(dim=0).nonzero()
    end = int(used[-1]) + 1 if len(used) else 1
    return tuple(tensor[:, :end] for tensor in tensors)
