"""Picture files to pixels through Pillow: every mode that it reads, and one sentence for what it does not.

Pillow's own limit of 89 million pixels guards web servers; aerial pictures are larger, so ours stands beside it.
"""

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from htc_fast.data.formats import RAW, kind_of_file
from htc_fast.data.pixels import remark, say_frames, say_transparent, to_bytes, upright
from htc_fast.errors import UserError

LIMIT = 1 << 29  # pixels; 1.5 GB of RGB
PILLOWS_LIMIT = 89_478_485
USUAL = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
# Readers of what is no picture of pixels; that of EPS runs another program.
NO_READERS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
BITS, PHOTOMETRIC, ORIENTATION, PLANAR = 258, 262, 274, 284
STRIPS, TILES = 273, 324  # where they begin
_opening = threading.RLock()


def _renew() -> None:
    """A child of a process whose other thread was just opening a picture would wait for ever."""
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_renew)


def read_picture(source: Any, size: tuple[int, int] | None, what: str) -> np.ndarray:
    """Pixels of an encoded picture.

    source   path, bytes or a binary file
    size     as for `load_image`
    what     how messages call it
    returns  uint8 [H, W, 3], RGB
    raises   UserError saying what is wrong with it
    """
    with _opened(source, what) as file:
        with _explained(what, file):
            picture = _open(file)
        if picture.format == "TIFF" and str(getattr(file, "name", "")).lower().endswith(RAW):
            raise UserError(
                f"{what} is a camera's raw file, of which only a preview could be read: develop it to JPEG."
            )
        with picture:
            return pixels_of(picture, size, what, file)


@contextlib.contextmanager
def opened(source: Any, what: str) -> Iterator[Image.Image]:
    """A picture as Pillow has it, not yet decoded: for its size, or for numbers that are no colours.

    raises  UserError saying what is wrong with it
    """
    with _opened(source, what) as file, _explained(what, file), _open(file) as picture:
        yield picture


def pixels_of(picture: Image.Image, size: tuple[int, int] | None, what: str, file: Any = None) -> np.ndarray:
    """Decode, rotate as EXIF says (unless the annotations were drawn on the raw pixels), and make it 8-bit RGB.

    file     that the picture is read from, if it is
    returns  uint8 [H, W, 3], RGB
    raises   UserError saying what is wrong with it
    """
    with _explained(what, file, picture):
        _check_limit(picture, what)
        _say_frames(picture, what)
        before = _Header.of(picture, what)
        giant = picture.width * picture.height > PILLOWS_LIMIT
        with _without_limit() if giant else contextlib.nullcontext():
            picture.load()
        pixels = _rgb(picture, before, what)
        if before.depth > 8 and picture.mode in ("RGB", "RGBA", "RGBX", "RGBa"):
            pixels = _deep_colour(pixels, what, file)
        orientation = picture.getexif().get(ORIENTATION, 1)
    # Pillow turns a TIFF itself, and says no more that it was to be turned.
    turned = before.orientation if orientation == 1 else 1
    raw, right = upright(pixels, {6: 8, 8: 6}.get(turned, turned)), upright(pixels, orientation)
    if size in (None, right.shape[:2]):
        return np.ascontiguousarray(right)
    if size == raw.shape[:2]:
        return np.ascontiguousarray(raw)
    raise UserError(
        f"{what} is {raw.shape[1]} x {raw.shape[0]} pixels, but its annotations say {size[1]} x {size[0]}: "
        "correct width and height in the annotation file, or put the right picture there."
    )


@dataclass(frozen=True)
class _Header:
    """What is known before a picture is decoded, and forgotten afterwards.

    depth        bits per channel; Pillow keeps the upper 8 of colours
    exact        grey values fill that depth, as the file says
    inverted     0 is white, which Pillow turns round in 8 bits only
    orientation  of a TIFF
    """

    form: str | None
    depth: int = 8
    exact: bool = False
    inverted: bool = False
    orientation: int = 1

    @staticmethod
    def of(picture: Image.Image, what: str) -> "_Header":
        tile = str(getattr(picture, "tile", ""))
        if picture.format == "PNG":
            return _Header("PNG", 16 if ";16" in tile else 8)
        if picture.format == "PPM":
            # Pillow stretches what is below 65535 to 16 bits.
            most = int((re.findall(r"args=\D*(\d+)", tile) or [255])[-1])
            return _Header("PPM", 16 if most == 65535 else 8, exact=255 < most < 65535)
        tags = getattr(picture, "tag_v2", {})
        if 0 in tags.get(STRIPS, tags.get(TILES, ())):
            raise UserError(
                f"{what} leaves out parts that are empty, which Pillow mixes up: write them too, such as by "
                "gdal_translate; predict --tile reads large ones as they are."
            )
        depth = max(tags.get(BITS) or [8])
        if depth == 16 and tags.get(PLANAR) == 2 and picture.mode == "RGB":
            raise UserError(
                f"{what} has 16 bits per colour, one plane after the other, which Pillow mixes up: make them 8 bits."
            )
        return _Header(
            picture.format, depth, depth == 12, tags.get(PHOTOMETRIC) == 0 and depth > 8, tags.get(ORIENTATION, 1)
        )


def _rgb(picture: Image.Image, before: _Header, what: str) -> np.ndarray:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.array(picture)
    if picture.mode.startswith(("I", "F")):
        known = {"PPM": 16}.get(before.form or "", before.depth) if before.exact else None
        grey = to_bytes(np.asarray(picture), what, known)
        return np.repeat((255 - grey if before.inverted else grey)[..., None], 3, axis=2)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        # By way of RGBA, as a palette with several transparent colours has to.
        picture = picture.convert("RGBA")
        say_transparent(np.asarray(picture.getchannel("A")), what)
    return np.array(picture.convert("RGB"))


def _deep_colour(pixels: np.ndarray, what: str, file: Any) -> np.ndarray:
    """Colours of 16 bits, whose upper 8 Pillow has kept: enough where all 16 are in use."""
    if pixels.max() >= 64:
        remark("16 bits", f"{what} has 16 bits per colour: read as 16-bit data, whose white is 65535.")
        return pixels
    low = None if file is None else _lower_bytes(file)
    if low is None:
        way = ", or give its path instead of the opened picture" if file is None else ""
        raise UserError(
            f"{what} has 16 bits per colour and uses fewer than 15 of them, and Pillow reads the upper 8 alone: "
            f"scale it to 8 bits per colour{way}."
        )
    return to_bytes(pixels * np.uint16(256) + low, what)


def _lower_bytes(file: Any) -> np.ndarray | None:
    """The lower 8 of 16 bits per colour: what Pillow takes for the upper ones if told of the other byte order."""
    picture: Any = _open(file)
    tiles = []
    for tile in picture.tile:
        whole = isinstance(tile[3], str)
        kind = tile[3] if whole else tile[3][0]
        if kind[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
            return None
        other = kind[:-1] + {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[kind[-1]]
        tiles.append((*tile[:3], other if whole else (other, *tile[3][1:])))
    picture.tile = [type(tile)(*one) if hasattr(tile, "_fields") else one for tile, one in zip(picture.tile, tiles)]
    return np.array(picture)[..., :3]


def _say_frames(picture: Image.Image, what: str) -> None:
    # MPO is what phones write: its further frames are previews and depth.
    if picture.format in (None, "JPEG", "MPO") or picture.tell() != 0:
        return
    try:
        say_frames(getattr(picture, "n_frames", 1), what)
    except SyntaxError:  # a TIFF page that Pillow cannot read, such as a mask
        picture.seek(0)
        remark("frames", f"{what} holds further pages, of which Pillow cannot read one: the first is read.")


def _open(file: Any) -> ImageFile.ImageFile:
    with _without_limit():
        try:
            return Image.open(file, formats=USUAL)
        except UnidentifiedImageError:
            Image.init()  # a quarter of a second, once
            return Image.open(file, formats=[name for name in Image.ID if name not in (*USUAL, *NO_READERS)])


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow's limit is one for all threads, and its warning goes past every command's own messages."""
    with _opening:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        texts = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        # Colour profiles and the settings of a picture's program may be longer than Pillow likes.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = LIMIT
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
            PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = texts


def _check_limit(picture: Image.Image, what: str) -> None:
    with _opening:
        pillows = Image.MAX_IMAGE_PIXELS
    # Who has set Pillow's limit has set ours.
    limit = LIMIT if pillows == PILLOWS_LIMIT else pillows
    pixels = picture.width * picture.height
    if not pixels:
        raise UserError(f"{what} is {picture.width} x {picture.height}: expected at least one pixel.")
    if limit is not None and pixels > limit:
        raise UserError(
            f"{what} is {picture.width} x {picture.height}, {pixels:,} pixels and beyond the limit of "
            f"{limit:,}: cut it into tiles, or make it smaller first (in Python, "
            "PIL.Image.MAX_IMAGE_PIXELS sets another limit)."
        )


@contextlib.contextmanager
def _opened(source: Any, what: str) -> Iterator[Any]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
        return
    if isinstance(source, io.TextIOBase):
        raise UserError(f"{what} is open as text: open it with mode 'rb'.")
    if hasattr(source, "read"):
        yield source
        return
    path = os.fspath(source)
    try:
        if os.path.isdir(path):
            raise UserError(f"{what} is a folder: name the pictures in it.")
        if not os.path.isfile(path):
            os.stat(path)
            raise UserError(f"{what} cannot be read: it is a device or a pipe, expected a file.")
        file = open(path, "rb")
    except UserError:
        raise
    except FileNotFoundError:
        if re.match(r"[a-z0-9]+://", str(path)):
            raise UserError(f"{what} is an address and no file: fetch it first.") from None
        raise UserError(f"{what} is missing: check the path or the data set's image folder.") from None
    except PermissionError:
        raise UserError(f"{what} cannot be read: this user has no right to read the file or its folder.") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{what} cannot be read ({getattr(error, 'strerror', None) or error}): check the path."
        ) from None
    with file:
        yield file


@contextlib.contextmanager
def _explained(what: str, file: Any, picture: Image.Image | None = None) -> Iterator[None]:
    """Whatever a decoder raises, as a sentence."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        size = f" of {picture.width} x {picture.height} pixels" if picture else ""
        raise UserError(f"{what}{size} does not fit into memory: cut it into tiles or make it smaller.") from None
    except UnidentifiedImageError:
        raise UserError(f"{what} cannot be read: it is {kind_of_file(file)}; replace it or take it out.") from None
    # Pillow's decoders raise whatever the damage leads to: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "data too large" in reason or "Too much memory used in text" in reason:
            raise UserError(f"{what} carries texts beyond Pillow's limits ({reason}): save it without them.") from None
        if picture is not None and file is None:
            raise UserError(f"{what} cannot be read ({reason}): it is closed or damaged; open it again.") from error
        raise UserError(
            f"{what} cannot be read ({reason}): it is truncated or damaged; replace it or take it out."
        ) from error
