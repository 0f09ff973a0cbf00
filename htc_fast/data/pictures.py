"""Pictures in, network input out: decoding, and the resize rule everyone shares.

Resizing is bilinear at pixel centres without antialiasing, on uint8: within one grey level of OpenCV's `INTER_LINEAR`,
which the published checkpoints were trained with (mean difference 0.2 levels on COCO photos).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from htc_fast.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm")
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
ORIENTATION = 0x0112
Source = str | Path | Image.Image | np.ndarray


def load_image(source: Source, size: tuple[int, int] | None = None) -> np.ndarray:
    """Turn a path, a PIL image or an array into pixels.

    source   path, PIL image, or uint8 array [H, W, 3] RGB or [H, W] grey
    size     expected (height, width): decides whether an EXIF rotation is meant to be applied; None: it is
    returns  uint8 [H, W, 3], RGB
    raises   UserError if a file is missing, truncated, no picture or of another size; TypeError, ValueError for arrays
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _pixels(source, size, "picture")
    if not isinstance(source, (str, Path)):
        raise TypeError(f"expected a path, a PIL image or a uint8 array [H, W, 3], got {type(source).__name__}.")
    if not Path(source).is_file():
        raise UserError(f"picture {source} is missing: check the path or the data set's image folder.")
    try:
        with Image.open(source) as picture:
            return _pixels(picture, size, f"picture {source}")
    except UserError:
        raise
    # Pillow's decoders raise whatever the damage leads to: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise UserError(
            f"picture {source} cannot be read ({_reason(error)}): it is truncated or not a picture; "
            "replace it or take it out."
        ) from error


def resized_size(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The largest size of the same aspect whose short side is at most `short` and long side at most `long`."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [3, H, W] to (height, width), bilinear without antialiasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.resize(image, list(size), InterpolationMode.BILINEAR, antialias=False)


def shrink(image: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """uint8 [H, W, 3] to uint8 [3, h, w] of (short side, long side), or of its own size for None."""
    # A copy only where torch cannot borrow the memory.
    tensor = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    if size is None:
        return tensor
    height, width, _ = image.shape
    return resize(tensor, resized_size(height, width, *size))


def preprocess(
    images: Sequence[np.ndarray],
    size: tuple[int, int] | None = (800, 1333),
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    device: torch.device | str = "cpu",
    multiple: int = 32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make one network input of pictures of any sizes.

    images       list of uint8 [H, W, 3], RGB
    size         (short side, long side) in pixels; None: as they are
    mean, std    per channel, on the 0-255 scale
    returns      images [N, 3, H, W] float32 normalised, zero-padded bottom and right;
                 image_sizes [N, 2] int64 (height, width) before padding;
                 scales [N, 4] float32, network pixels per original pixel, (x, y, x, y)
    source       mmdetection's test pipeline
    """
    tensors = [shrink(image, size) for image in images]
    batch, image_sizes = normalise_and_pad(tensors, mean, std, device, multiple)
    pairs = zip(tensors, images)
    scales = [(tensor.shape[2] / image.shape[1], tensor.shape[1] / image.shape[0]) * 2 for tensor, image in pairs]
    return batch, image_sizes, torch.tensor(scales, dtype=torch.float32, device=device)


def normalise_and_pad(
    images: Sequence[Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    multiple: int = 32,
) -> tuple[Tensor, Tensor]:
    """Stack uint8 [3, H, W] images into one float batch.

    returns  images [N, 3, H, W] float32, channels last, zero (the mean colour) where padded; image_sizes [N, 2] int64
    """
    sizes = [tuple(image.shape[-2:]) for image in images]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes))
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


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise TypeError(f"expected uint8 pixels from 0 to 255, got {array.dtype}: convert with .astype('uint8').")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"expected an RGB array [H, W, 3], got shape {list(array.shape)}.")
    return array


def _pixels(picture: Image.Image, size: tuple[int, int] | None, what: str) -> np.ndarray:
    """Decode, rotate as EXIF says (unless the annotations were drawn on the raw pixels), and make it 8-bit RGB."""
    raw = (picture.height, picture.width)
    rotated = raw[::-1] if picture.getexif().get(ORIENTATION, 1) >= 5 else raw
    if size is not None and size not in (raw, rotated):
        raise UserError(
            f"{what} is {raw[1]} x {raw[0]} pixels, but its annotations say {size[1]} x {size[0]}: "
            "correct width and height in the annotation file, or put the right picture there."
        )
    if size is None or size == rotated:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        return _from_deep(picture, what)
    return np.array(picture.convert("RGB"))


def _from_deep(picture: Image.Image, what: str) -> np.ndarray:
    """16-bit grey to 8-bit RGB: the upper byte."""
    values = np.asarray(picture)
    if values.dtype.kind == "f" or values.max() > 65535 or values.min() < 0:
        raise UserError(f"{what} has {picture.mode} pixels: expected 8 or 16 bits per channel, so convert it first.")
    if picture.mode.startswith("I;16") or values.max() > 255:
        values = values >> 8
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return "unknown format" if "cannot identify" in text else (text.splitlines() or [type(error).__name__])[0]


def image_limits(sides: Sequence[int]) -> tuple[int, int]:
    """One or two sides in pixels as (short side, limit of the long side).

    raises  UserError for other numbers
    """
    if not 1 <= len(sides) <= 2 or min(sides) < 32:
        raise UserError(f"--image-size takes one or two sides of at least 32 pixels, got {' '.join(map(str, sides))}.")
    # One side alone keeps the paper's aspect, 1333 to 800.
    return sides[0], sides[1] if len(sides) == 2 else round(sides[0] * 1333 / 800)
