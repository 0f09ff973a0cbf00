"""Numbers to 8-bit RGB: arrays and tensors of any type and layout that can be understood in one way only.

What holds more than 8 bits is scaled by the bits in use (8, 10, 12, 14 or 16) and not by its largest value: pictures of
one camera are treated alike, and a bright pixel changes nothing within its depth. Each such reading is said once.
"""

import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htc_fast.errors import UserError, say_once

DEPTHS = (8, 10, 12, 14, 16)
WANTED = "expected pixels [H, W, 3]"
REMARKS = ("8 bits", "10 bits", "12 bits", "14 bits", "16 bits", "0 to 1", "0 to 255", "transparent", "frames")
_said = mmap.mmap(-1, len(REMARKS))  # one byte each, shared with the processes that load training pictures


def remark(kind: str, sentence: str) -> None:
    """Say how a picture is read, the first time that this kind of reading happens.

    kind  one of REMARKS
    """
    place = REMARKS.index(kind)
    if not _said[place]:
        _said[place] = 1
        say_once(f"{sentence} This is said once.")


def from_array(array: Any, what: str = "the array") -> np.ndarray:
    """One picture's numbers as pixels.

    array    [H, W, 3] RGB, [H, W, 4] RGBA, [H, W] or [H, W, 1] grey, or with channels first; alpha is left out;
             bool, integers (scaled by their depth), or floats from 0 to 1 or from 0 to 255
    returns  uint8 [H, W, 3], contiguous
    raises   UserError for other shapes, types and values
    """
    if np.ndim(array) > 3:
        raise UserError(f"{what} {list(np.shape(array))} is several pictures: {WANTED}, one alone, such as array[0].")
    [picture] = from_batch(array[None], what)
    return picture


def from_batch(array: Any, what: str = "the array") -> list[np.ndarray]:
    """Several pictures of one size, of one scale and depth.

    array    [N, ...] of what `from_array` takes
    returns  N of uint8 [H, W, 3], contiguous
    raises   UserError as it does
    """
    values = _channels_last(as_numbers(array, what), isinstance(array, Tensor), what)
    if values.shape[-1] == 4:
        say_transparent(values[..., 3], what)
        values = values[..., :3]
    values = to_bytes(values, what)
    if values.shape[-1] == 1:
        values = np.repeat(values, 3, axis=3)
    return list(np.ascontiguousarray(values))


def say_transparent(alpha: np.ndarray, what: str) -> None:
    """Say once that transparent pixels are read as their colour."""
    if alpha.size and alpha.min() < alpha.max():
        remark(
            "transparent",
            f"{what} has transparent pixels: they are read as the colour that is stored under them, as OpenCV does; "
            "put them on a background of your choice if that looks wrong.",
        )


def say_frames(count: int, what: str) -> None:
    """Say once that of several frames or pages the first is read."""
    if count > 1:
        remark("frames", f"{what} holds {count} frames or pages: the first is read, {count - 1} are not.")


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, 3] as EXIF's orientation says: 1 as it is, 2-4 mirrored or upside down, 5-8 with sides exchanged."""
    if orientation not in range(2, 9):
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def as_numbers(array: Any, what: str) -> np.ndarray:
    """A tensor, or an array of whatever class, as a plain array of bool, integers or floats.

    raises  UserError if it is of anything else, or hides values
    """
    if isinstance(array, Tensor):
        try:
            array = array.detach().cpu()
            array = (array.float() if array.dtype == torch.bfloat16 else array).resolve_conj().numpy()
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{what} has no values to read ({str(error).splitlines()[0]}): {WANTED}.") from None
    if np.ma.is_masked(array):
        raise UserError(f"{what} is masked and hides values: fill them first, such as with .filled(0).")
    values = np.asarray(array)
    if values.dtype.kind == "O":
        try:
            values = np.array(values.tolist())
        except ValueError:
            pass
    if values.dtype.kind not in "biuf":
        raise UserError(f"{what} holds {values.dtype}: {WANTED} of uint8, other integers, or floats from 0 to 1.")
    return values


def to_bytes(values: np.ndarray, what: str, depth: int | None = None) -> np.ndarray:
    """Numbers of any type as uint8.

    depth   of DEPTHS, where the file says it; None: the fewest of 8, 10, 12, 14 and 16 that hold the largest value
    raises  UserError for numbers below 0, beyond 16 bits, between the two scales of floats, or no numbers
    """
    if values.dtype == np.uint8 and depth in (None, 8):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    floats = values.dtype.kind == "f"
    low, high = (values.min().item(), values.max().item()) if values.size else (0, 0)
    advice = f"{what} holds {values.dtype.newbyteorder('=')} from {low:g} to {high:g}"
    # A comparison with NaN is false.
    if not (low >= 0 and high <= 65535):
        raise UserError(
            f"{advice}: expected uint8 from 0 to 255, up to 16 bits, or floats from 0 to 1; undo a normalisation, "
            "replace NaN and infinity, and scale it to uint8."
        )
    if floats and (1.001 < high < 2 or 255.5 <= high < 512):  # a little beyond a scale, as resizing by cubics leaves it
        raise UserError(f"{advice}, neither from 0 to 1 nor from 0 to 255: clip it, or scale it to uint8.")
    if floats and high <= 1.001:
        remark("0 to 1", f"{advice}: 1 is taken for white, 255.")
        return np.rint(values.clip(max=1) * 255).astype(np.uint8)
    if floats:
        values = np.rint(values).astype(np.uint16)
        high = int(values.max())
    depth = depth or next(bits for bits in DEPTHS if high < 1 << bits)
    if floats and depth == 8:
        remark("0 to 255", f"{advice}: 255 is taken for white.")
    elif depth > 8 or values.dtype.itemsize == 2:
        remark(
            f"{depth} bits",
            f"{advice}: read as {depth}-bit data, whose white is {(1 << depth) - 1}; a picture with values of another "
            "depth is scaled by its own, so bring a set of mixed depths to 8 bits first.",
        )
    return (values >> (depth - 8)).clip(max=255).astype(np.uint8)


def _channels_last(values: np.ndarray, tensor: bool, what: str) -> np.ndarray:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] to [N, H, W, C]; where both fit, an array has its channels last."""
    shape = list(values.shape[1:])
    if len(shape) == 2 and 0 not in shape:
        return values[..., None]
    first, last = (len(shape) == 3 and shape[place] in (1, 3, 4) for place in (0, -1))
    # Two channels at the end are grey and alpha, and no picture of two columns.
    if not (first or last) or 0 in shape or (shape[-1] == 2 and not tensor):
        grey = "; leave the alpha channel out, such as array[..., 0]" if shape[-1:] == [2] else ""
        raise UserError(
            f"{what} is {shape}: {WANTED}, [H, W, 4], [H, W] or with channels first, and no empty side{grey}."
        )
    if tensor and first and last and shape[-1] != 1:
        raise UserError(f"{what} {shape} can be read with channels first or last: say it with a NumPy array [H, W, 3].")
    return values.transpose(0, 2, 3, 1) if first and (tensor or not last) else values
