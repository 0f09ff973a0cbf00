"""PNG row by row: the stream is unpacked as it is needed, and Pillow decodes small files made of its rows.

A row's filter asks for the row above. So a band becomes a file of its own whose first row is the last one before it,
and filters, palettes and bit depths stay what Pillow makes of them.
"""

import io
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from htc_fast.data.decode import ORIENTATION, read_picture
from htc_fast.data.pixels import DEPTHS, to_bytes
from htc_fast.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
CARRIERS = {1: 0, 2: 4, 3: 2, 4: 6}  # colour type of 8 bits whose pixels have so many bytes
ANIMATED = {b"acTL", b"fcTL", b"fdAT"}
ROWS = 64  # unpacked at a time


class PngRows:
    """Rows of a PNG file in their order; where an earlier one is asked for, from the beginning again."""

    @staticmethod
    def of(path: Any, what: str) -> "PngRows | None":
        """None: the file is to be read whole, which also finds the words for what is wrong with it."""
        file = open(path, "rb")
        try:
            made = PngRows(file, what)
            if made.readable():
                return made
        except (OSError, ValueError, struct.error, SyntaxError, EOFError):
            pass
        file.close()
        return None

    def __init__(self, file: BinaryIO, what: str):
        self.file, self.what = file, what
        self.others, self.places = _chunks(file)
        self.width, self.height, self.depth, self.colour, *_, self.interlaced = struct.unpack(
            ">IIBBBBB", self.others[0][1]
        )
        bits = self.depth * CHANNELS[self.colour]
        self.row_bytes, self.pixel_bytes = (self.width * bits + 7) // 8, max(1, bits // 8)
        # What a band needs to be the picture: its palette and its transparent colour.
        self.colours = [one for one in self.others if one[0] in (b"PLTE", b"tRNS")]
        self.scale: int | None = None
        self.kept, self.kept_from = np.empty((0, self.width, 3), np.uint8), 0
        self._begin()

    def readable(self) -> bool:
        """Whether bands alone give what the whole picture would."""
        names = {name for name, _ in self.others}
        if self.interlaced or names & ANIMATED or self.pixel_bytes not in CARRIERS or not self.places:
            return False
        if self.depth == 16 and self.colour != 0:
            return False
        # All that Pillow finds out about the picture, from a file of one row.
        row = zlib.compress(bytes(1 + self.row_bytes))
        size = struct.pack(">II", self.width, 1) + self.others[0][1][8:]
        chunks = [(b"IHDR", size), *self.others[1:-1]]
        before = next((i for i, (name, _) in enumerate(chunks) if name == b"IDAT"), len(chunks))
        with Image.open(_file([*chunks[:before], (b"IDAT", row), *chunks[before + 1 :]])) as picture:
            picture.load()
            return picture.getexif().get(ORIENTATION, 1) == 1

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """uint8 [bottom - top, right - left, 3]"""
        if self.depth == 16 and self.scale is None:
            self.scale = self._measured()
        if top < self.kept_from:
            self._begin()
        while self.at < top:
            self._next(min(ROWS, top - self.at))
        band = np.empty((bottom - top, self.width, 3), np.uint8)
        done = max(0, min(self.at, bottom) - top)
        if done:
            start = top - self.kept_from
            band[:done] = self.kept[start : start + done]
        while self.at < bottom:
            start = self.at - top
            rows = self._pixels(self._next(min(ROWS, bottom - self.at)))
            band[start : start + len(rows)] = rows
        if bottom == self.at:
            self.kept, self.kept_from = band, top
        return band[:, left:right]

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _begin(self) -> None:
        self.unpacker, self.place, self.at = zlib.decompressobj(), 0, 0
        self.above: bytes | None = None
        self.kept, self.kept_from = np.empty((0, self.width, 3), np.uint8), 0

    def _measured(self) -> int:
        """Bits in use over the whole picture, which is read once for it."""
        largest = 0
        while self.at < self.height:
            rows = self._next(min(ROWS, self.height - self.at))
            largest = max(largest, int(rows.view(">u2").max()))
        self._begin()
        return next(bits for bits in DEPTHS if largest < 1 << bits)

    def _next(self, count: int) -> np.ndarray:
        """The bytes of the next rows without their filters, uint8 [count, row_bytes]."""
        lines = self._unpacked(count * (1 + self.row_bytes))
        first = 0 if self.above is None else 1
        given = lines if self.above is None else b"\0" + self.above + lines
        carrier = CARRIERS[self.pixel_bytes]
        size = (self.row_bytes // self.pixel_bytes, count + first)
        rows = np.asarray(self._opened(_file(_picture(size, 8, carrier, given)))).reshape(count + first, -1)[first:]
        self.above, self.at = rows[-1].tobytes(), self.at + count
        return rows

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        count = len(rows)
        if (self.depth, self.colour) == (8, 2) and not any(name == b"tRNS" for name, _ in self.colours):
            return rows.reshape(count, self.width, 3)
        if self.depth == 16:
            grey = np.ascontiguousarray(rows).view(">u2").astype(np.uint16)
            return to_bytes(grey, self.what, self.scale)[..., None]
        lines = np.concatenate([np.zeros((count, 1), np.uint8), rows], axis=1).tobytes()
        chunks = _picture((self.width, count), self.depth, self.colour, lines, self.colours)
        return read_picture(_file(chunks).getvalue(), None, self.what)

    def _opened(self, file: io.BytesIO) -> Image.Image:
        try:
            with Image.open(file, formats=["PNG"]) as picture:
                picture.load()
                return picture
        except (OSError, SyntaxError, ValueError) as error:
            raise self._damaged(error) from error

    def _unpacked(self, size: int) -> bytes:
        parts: list[bytes] = []
        try:
            while size:
                part = self.unpacker.decompress(self.unpacker.unconsumed_tail or self._packed(), size)
                size -= len(part)
                parts.append(part)
                if size and self.unpacker.eof:
                    raise EOFError("it ends before its last row")
        except (zlib.error, EOFError, OSError) as error:
            raise self._damaged(error) from error
        return b"".join(parts)

    def _packed(self) -> bytes:
        """raises  EOFError"""
        if self.place == len(self.places):
            raise EOFError("it ends before its last row")
        start, length = self.places[self.place]
        self.place += 1
        self.file.seek(start)
        data = self.file.read(length + 4)
        if len(data) < length + 4 or zlib.crc32(data[:-4], zlib.crc32(b"IDAT")) != int.from_bytes(data[-4:], "big"):
            raise EOFError("a part of it is damaged or missing")
        return data[:-4]

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.what} cannot be read ({error}): it is truncated or damaged; replace it or take it out."
        )


def _chunks(file: BinaryIO) -> tuple[list[tuple[bytes, bytes]], list[tuple[int, int]]]:
    """All chunks but those of pixels, of which an empty one is left where they are; (place, length) of these.

    raises  ValueError where that is no PNG file
    """
    if file.read(8) != SIGNATURE:
        raise ValueError("no PNG")
    others: list[tuple[bytes, bytes]] = []
    places: list[tuple[int, int]] = []
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IDAT":
            others += [] if places else [(name, b"")]
            places.append((file.tell(), length))
            file.seek(length + 4, io.SEEK_CUR)
            continue
        others.append((name, file.read(length)))
        file.seek(4, io.SEEK_CUR)
        if name == b"IEND":
            break
    if not others or others[0][0] != b"IHDR" or others[-1][0] != b"IEND":
        raise ValueError("a PNG without beginning or end")
    return others, places


def _picture(
    size: tuple[int, int], depth: int, colour: int, lines: bytes, between: list[tuple[bytes, bytes]] | None = None
) -> list[tuple[bytes, bytes]]:
    """Chunks of a picture (width, height) of lines, each with its filter before it; stored, not packed."""
    first = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    return [(b"IHDR", first), *(between or []), (b"IDAT", zlib.compress(lines, 0))]


def _file(chunks: list[tuple[bytes, bytes]]) -> io.BytesIO:
    parts = [SIGNATURE]
    for name, data in [*chunks, (b"IEND", b"")]:
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))]
    return io.BytesIO(b"".join(parts))
