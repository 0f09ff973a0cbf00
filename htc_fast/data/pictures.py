"""Pictures in, network input out: decoding, and the resize rule everyone shares.

Resizing is bilinear at pixel centres without antialiasing, on uint8: within one grey level of OpenCV's `INTER_LINEAR`,
which the published checkpoints were trained with (mean difference 0.2 levels on COCO photos).
"""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from htc_fast.data.decode import pixels_of, read_picture
from htc_fast.data.pixels import from_array, from_batch
from htc_fast.errors import LONGEST_SIDE, UserError, check_count, check_sides, short

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
# A path, a PIL image, an array or tensor, or an encoded picture as bytes or as a binary file.
Source = Any
ONE = "a path, a PIL image or an array [H, W, 3]"


def load_image(source: Source, size: tuple[int, int] | None = None) -> np.ndarray:
    """Turn a path, a PIL image or an array into pixels.

    source   path, PIL image, array or tensor [H, W, 3] RGB or [H, W] grey (other layouts and types: `from_array`),
             or an encoded picture as bytes or as a binary file
    size     expected (height, width): decides whether an EXIF rotation is meant to be applied; None: it is
    returns  uint8 [H, W, 3], RGB
    raises   UserError if a file is missing, truncated, no picture or of another size, or an array cannot be understood
    """
    if isinstance(source, Image.Image):
        return pixels_of(source, size, "the picture")
    if isinstance(source, (str, os.PathLike)):
        return read_picture(source, size, f"picture {str(os.fspath(source))[-300:]}")
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return read_picture(source, size, "the encoded picture")
    if isinstance(source, Tensor) or hasattr(source, "__array__"):
        return from_array(source if isinstance(source, (Tensor, np.ndarray)) else np.asarray(source))
    raise UserError(f"expected {ONE}, got {type(source).__name__}{_hint(source)}.")


def list_pictures(images: Any) -> list[Source]:
    """One picture, or several in whatever holds them, as a list of what `load_image` takes.

    images  a picture; an array or tensor of several [N, H, W, 3]; or a list, tuple, generator, ... of pictures
    raises  UserError for what has no order
    """
    if isinstance(images, (Image.Image, str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(images, "read"):
        return [images]
    if not isinstance(images, Tensor) and hasattr(images, "__array__"):
        images = np.asanyarray(images)
        # A column of paths or of pictures of unequal sizes.
        if images.ndim == 1 and images.dtype.kind in "OUS":
            return images.tolist()
    if isinstance(images, (Tensor, np.ndarray)):
        return list(from_batch(images)) if images.ndim == 4 else [images]
    if isinstance(images, (Mapping, Set)) or not isinstance(images, Iterable):
        raise UserError(f"expected {ONE}, or a list of such, got {type(images).__name__}{_hint(images)}.")
    return list(images)


def resized_size(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The largest size of the same aspect whose short side is at most `short` and long side at most `long`."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def framed_size(height: int, width: int, frame: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same aspect that fits into a frame (height, width), which does not turn with it."""
    scale = min(frame[0] / height, frame[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [3, H, W] to (height, width), bilinear without antialiasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.resize(image, list(size), InterpolationMode.BILINEAR, antialias=False)


def shrink(image: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """uint8 [H, W, 3] to uint8 [3, h, w] of (short side, long side), or of its own size for None."""
    # A copy only where torch cannot borrow the memory.
    ours = image.flags.writeable and image.flags.c_contiguous
    tensor = torch.from_numpy(image if ours else image.copy()).permute(2, 0, 1)
    if size is None:
        return tensor
    height, width, _ = image.shape
    return resize(tensor, resized_size(height, width, *size))


def preprocess(
    images: Any,
    size: tuple[int, int] | None = (800, 1333),
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: torch.device | str = "cpu",
    multiple: int = 32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make one network input of pictures of any sizes.

    images       list of uint8 [H, W, 3], RGB, or of whatever else `load_image` takes
    size         (short side, long side) in pixels; None: as they are
    mean, std    per channel, on the 0-255 scale
    returns      images [N, 3, H, W] float32 normalised, zero-padded bottom and right;
                 image_sizes [N, 2] int64 (height, width) before padding;
                 scales [N, 4] float32, network pixels per original pixel, (x, y, x, y)
    source       mmdetection's test pipeline
    """
    images = [load_image(image) for image in list_pictures(images)]
    if not images:
        raise UserError("no pictures: give at least one.")
    tensors = [shrink(image, size) for image in images]
    batch, image_sizes = normalise_and_pad(tensors, mean, std, device, multiple)
    pairs = zip(tensors, images)
    scales = [(tensor.shape[2] / image.shape[1], tensor.shape[1] / image.shape[0]) * 2 for tensor, image in pairs]
    return batch, image_sizes, torch.tensor(scales, dtype=torch.float32, device=device)


def frame_of(size: Sequence[int], multiple: int = 32) -> tuple[int, int]:
    """(height, width) of the network's input for pictures up to a size: the next that `multiple` divides."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def stack(images: Sequence[Tensor], frame: tuple[int, int], missing: int = 0) -> Tensor:
    """uint8 [3, h, w] each -> uint8 [N, H, W, 3] of a frame (height, width), `missing` where padded."""
    batch = torch.full((len(images), *frame, 3), missing, dtype=torch.uint8)
    for slot, one in zip(batch, images):
        slot[: one.shape[1], : one.shape[2]] = one.permute(1, 2, 0)
    return batch


def normalise_and_pad(
    images: Sequence[Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    multiple: int = 32,
    frame: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Stack uint8 [3, H, W] images into one float batch.

    frame    (height, width) of the batch; None: the largest image's, up to what `multiple` divides
    returns  images [N, 3, H, W] float32, channels last, zero (the mean colour) where padded; image_sizes [N, 2] int64
    """
    sizes = [tuple(image.shape[-2:]) for image in images]
    height, width = frame or frame_of([max(side) for side in zip(*sizes)], multiple)
    batch = torch.zeros(len(images), height, width, 3, device=device).permute(0, 3, 1, 2)
    centre, spread = (to_device(torch.tensor(one, dtype=torch.float32), device)[:, None, None] for one in (mean, std))
    for slot, image, (h, w) in zip(batch, images, sizes):
        # Uint8 travels to the device, a quarter of the float's bytes.
        torch.sub(to_device(torch.as_tensor(image), device), centre, out=slot[:, :h, :w]).div_(spread)
    return batch, to_device(torch.tensor(sizes, dtype=torch.int64), device)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy without waiting for what the device is busy with: through pinned memory where that is a GPU."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _hint(source: Any) -> str:
    if isinstance(source, (Mapping, Set)):
        return ": give predict its pictures in an order, such as list(pictures.values())"
    if isinstance(source, (list, tuple)):
        return ": make numbers one array with np.asarray(…)"
    return "" if source is None else f" {short(source)}"


def image_limits(sides: Sequence[int]) -> tuple[int, int]:
    """The option --image-size: one or two sides in pixels as (short side, limit of the long side).

    raises  UserError for other numbers
    """
    name = "--image-size"
    if len(sides) != 1:
        return check_sides(name, sides)
    # One side alone keeps the paper's aspect, 1333 to 800.
    side = check_count(name, sides[0], least=32, most=LONGEST_SIDE)
    return side, min(round(side * 1333 / 800), LONGEST_SIDE)
