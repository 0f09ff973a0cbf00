"""Transforms of a sample dict, in the manner of torchvision's transforms v2: they mix with torchvision's own.

All draws come from torch's generator, so seeding it fixes a sample.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from htc_fast.data.layers import resized
from htc_fast.data.numbered import bitmap, extents, select, visible_area
from htc_fast.data.pictures import resize, resized_size


def train_transform(
    short: int | Sequence[int] | None = 800,
    long: int = 1333,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    crop: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    turn: bool = False,
) -> v2.Compose:
    """Resize, crop, flip: the paper's single-scale recipe as default.

    short          pixels of the short side; (lowest, highest): drawn in between; None: the picture's own size
    long           limit of the long side
    flip           probability of mirroring left-right, vertical_flip of top-bottom
    crop           (height, width) of a random window, after resizing
    scale          (lowest, highest) random factor on that size
    turn           also turn by a random multiple of 90 degrees
    """
    steps: list = []
    if short is not None or tuple(scale) != (1.0, 1.0):
        steps.append(Resize(short, long, scale))
    if crop is not None:
        steps.append(RandomCrop(crop))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if vertical_flip:
        steps.append(v2.RandomVerticalFlip(vertical_flip))
    if turn:
        steps.append(QuarterTurn())
    return v2.Compose([*steps, DropEmpty()])


class Resize(v2.Transform):
    """Resize keeping the aspect: images bilinear, masks nearest, boxes by the factor of each axis, then clipped.

    short   pixels of the short side, or an inclusive range to draw from; None: the picture's own size
    long    limit of the long side
    scale   (lowest, highest) random factor on both
    source  mmdetection's rule: both limits hold, sides rounded half up
    """

    def __init__(
        self,
        short: int | Sequence[int] | None = 800,
        long: int = 1333,
        scale: tuple[float, float] = (1.0, 1.0),
    ):
        super().__init__()
        self.short = (short, short) if isinstance(short, int) else short and (min(short), max(short))
        self.long, self.scale = long, scale
        if long < 1 or (self.short and self.short[0] < 1) or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"sides and factors must be positive, got short={short}, long={long}, scale={scale}.")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = next(F.get_size(item) for item in flat_inputs if isinstance(item, tv_tensors.Image))
        short, long = min(height, width), max(height, width)
        if self.short:
            short, long = int(torch.randint(self.short[0], self.short[1] + 1, ())), self.long
        factor = float(torch.empty(()).uniform_(*self.scale)) if self.scale[0] < self.scale[1] else self.scale[0]
        return {"size": resized_size(height, width, short * factor, long * factor)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Image):
            return resize(inpt, params["size"])
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.Mask(resized(inpt.as_subclass(Tensor), params["size"]))
        return F.resize(inpt, list(params["size"]))


class RandomCrop(torch.nn.Module):
    """Cut a random window; instances that lie outside go, those that are cut get the box of what is left.

    size  (height, width), or one number for both; a smaller image stays as it is along that side
    Where the image has instances, the window holds at least one.
    """

    TRIALS = 10

    def __init__(self, size: int | tuple[int, int]):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, sample: dict) -> dict:
        height, width = F.get_size(sample["image"])
        window = min(self.size[0], height), min(self.size[1], width)
        if window == (height, width):
            return sample
        for _ in range(self.TRIALS):
            top, left = (int(torch.randint(0, free + 1, ())) for free in (height - window[0], width - window[1]))
            inside = cut(sample, top, left, window)
            if len(inside["labels"]) or not len(sample["labels"]):
                return inside
        return cut(sample, *self._around(sample, height, width, window), window)

    def _around(self, sample: dict, height: int, width: int, window: tuple[int, int]) -> tuple[int, int]:
        """A window whose centre is a pixel of a random instance, as far as the image's border lets it."""
        pixels = bitmap(sample, int(torch.randint(0, len(sample["labels"]), ()))).nonzero()
        if not len(pixels):
            return 0, 0
        y, x = pixels[int(torch.randint(0, len(pixels), ()))].tolist()
        top = min(max(y - window[0] // 2, 0), height - window[0])
        return top, min(max(x - window[1] // 2, 0), width - window[1])


class QuarterTurn(v2.Transform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"turns": int(torch.randint(0, 4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        for _ in range(params["turns"]):
            if isinstance(inpt, tv_tensors.BoundingBoxes):
                height, width = inpt.canvas_size
                x1, y1, x2, y2 = inpt.as_subclass(Tensor).unbind(1)
                turned = torch.stack([y1, width - x2, y2, width - x1], dim=1)
                inpt = tv_tensors.BoundingBoxes(turned, format="XYXY", canvas_size=(width, height))
            else:
                inpt = tv_tensors.wrap(torch.rot90(inpt.as_subclass(Tensor), 1, (-2, -1)), like=inpt)
        return inpt


class DropEmpty(torch.nn.Module):
    """Drop instances whose box the other transforms left without a positive width and height.

    Not v2.SanitizeBoundingBoxes: it also drops sides below a pixel, boxes that overhang the picture, and rows of a
    semantic map that has as many rows as there are instances.
    """

    def forward(self, sample: dict) -> dict:
        boxes = sample["boxes"].as_subclass(Tensor)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return sample if keep.all() else select(sample, keep)


def cut(sample: dict, top: int, left: int, size: tuple[int, int]) -> dict:
    """A window of a sample, zero where it reaches beyond it; instances without a pixel in it go.

    top, left  of the window, in pixels of the picture; may be below 0
    size       its height and width
    """
    window = {
        key: F.crop(value, top, left, *size)
        for key, value in sample.items()
        if isinstance(value, (tv_tensors.Image, tv_tensors.Mask))
    }
    boxes = sample["boxes"].as_subclass(Tensor) - torch.tensor([left, top, left, top])
    return clipped({**sample, **window}, boxes, size)


def clipped(sample: dict, boxes: Tensor, size: tuple[int, int]) -> dict:
    """A sample whose masks were cut to a window, with boxes [G, 4] cut to it too.

    returns  the instances that have a pixel; where a box reached beyond the window, it is that of what is left
    """
    inside = boxes.clone()
    inside[:, 0::2] = inside[:, 0::2].clamp(0, size[1])
    inside[:, 1::2] = inside[:, 1::2].clamp(0, size[0])
    inside = tv_tensors.BoundingBoxes(inside, format="XYXY", canvas_size=size)
    keep = visible_area(sample) > 0
    sample = select({**sample, "boxes": inside}, keep)
    return reboxed(sample, (inside.as_subclass(Tensor) != boxes).any(dim=1)[keep])


def reboxed(sample: dict, changed: Tensor) -> dict:
    """The sample in which the instances where changed [G] is True have the boxes of their pixels."""
    if not changed.any():
        return sample
    boxes = sample["boxes"].as_subclass(Tensor).clone()
    boxes[changed] = extents(sample, changed)
    return {**sample, "boxes": tv_tensors.wrap(boxes, like=sample["boxes"])}
