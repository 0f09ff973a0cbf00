"""TIFF by its strips or tiles, through tifffile where that is installed; of a band only what it touches is decoded."""

import threading
from typing import Any

import numpy as np

from htc_fast.data.decode import ORIENTATION
from htc_fast.data.pixels import DEPTHS, say_frames, say_transparent, to_bytes
from htc_fast.errors import UserError, say_once

GREY, COLOURS, YCBCR = 1, 2, 6
JPEG = 7  # libjpeg-turbo's pixels, as Pillow has them
UNKNOWN, STRAIGHT = 0, 2  # what a fourth channel is
PLAIN = {1, 5, 8, 32946, 32773, 50000}  # compressions that give the pixels back as they were


class TiffSegments:
    """The first page of a TIFF file."""

    @staticmethod
    def of(path: Any, what: str) -> "TiffSegments | None":
        """None: the file is to be read whole, which also finds the words for what is wrong with it."""
        try:
            import tifffile
        except ImportError:
            say_once(
                f"{what} is read whole, which takes memory for all of it: pip install tifffile imagecodecs reads TIFF "
                "in parts."
            )
            return None
        try:
            file = tifffile.TiffFile(path)
        except (OSError, ValueError, KeyError, tifffile.TiffFileError):
            return None
        made = TiffSegments(file, what)
        if made.readable():
            return made
        file.close()
        return None

    def __init__(self, file: Any, what: str):
        self.file, self.what, self.page = file, what, file.pages[0]
        self.scale: int | None = None
        self.lock = threading.Lock()

    def readable(self) -> bool:
        """Whether segments alone give what Pillow gives for the whole picture."""
        page, channels = self.page, self.page.samplesperpixel
        orientation = page.tags.valueof(ORIENTATION, 1)
        packed = int(page.compression)
        if orientation != 1 or packed not in {JPEG, *PLAIN} or int(page.fillorder) != 1 or page.imagedepth != 1:
            return False
        if int(page.planarconfig) != 1 or page.sampleformat not in (1, None):
            return False
        if int(page.photometric) == GREY:
            kinds = channels == 1 and page.bitspersample in ((8,) if packed == JPEG else (8, 16))
        elif packed == JPEG:
            kinds = int(page.photometric) in (COLOURS, YCBCR) and page.bitspersample == 8 and channels == 3
        else:
            extra = [int(one) for one in page.extrasamples]
            kinds = int(page.photometric) == COLOURS and page.bitspersample == 8
            kinds = kinds and (channels == 3 or (channels == 4 and extra in ([UNKNOWN], [STRAIGHT])))
        if not kinds:
            return False
        try:
            first = next((i for i, offset in enumerate(page.dataoffsets) if offset), 0)
            self._segment(first)
        # Whatever is odd or damaged, Pillow may know it.
        except Exception as error:
            if "imagecodecs" in str(error):
                say_once(
                    f"{self.what} is read whole, which takes memory for all of it: pip install imagecodecs unpacks "
                    "this kind of TIFF in parts."
                )
            return False
        say_frames(len(self.file.pages), self.what)
        return True

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """uint8 [bottom - top, right - left, 3]"""
        page = self.page
        if page.bitspersample == 16 and self.scale is None:
            largest = max(int(self._checked(i)[0].max()) for i in range(len(page.dataoffsets)))
            self.scale = next(bits for bits in DEPTHS if largest < 1 << bits)
        band = np.zeros((bottom - top, right - left, 3), np.uint8)
        across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                pixels, y, x = self._checked(row * across + column)
                y1, y2 = max(y, top), min(y + pixels.shape[0], bottom)
                x1, x2 = max(x, left), min(x + pixels.shape[1], right)
                if y1 < y2 and x1 < x2:
                    part = self._pixels(pixels[y1 - y : y2 - y, x1 - x : x2 - x])
                    band[y1 - top : y2 - top, x1 - left : x2 - left] = part
        return band

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _pixels(self, part: np.ndarray) -> np.ndarray:
        if part.shape[-1] == 4:
            say_transparent(part[..., 3], self.what)
        return to_bytes(part[..., :3], self.what, self.scale)

    def _checked(self, index: int) -> tuple[np.ndarray, int, int]:
        try:
            return self._segment(index)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.what} cannot be read ({reason}): it is truncated or damaged; replace it or take it out."
            ) from error

    def _segment(self, index: int) -> tuple[np.ndarray, int, int]:
        """A strip's or tile's pixels [h, w, C], and where they begin: y, x."""
        page = self.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not offset:  # GDAL leaves out what is empty
            _, place, shape = page.decode(None, index)
            return np.full((*shape[1:3], page.samplesperpixel), page.nodata, page.dtype), place[2], place[3]
        with self.lock:
            self.file.filehandle.seek(offset)
            data = self.file.filehandle.read(count)
        if len(data) < count:
            raise EOFError("it ends before its last segment")
        pixels, place, shape = page.decode(data, index, jpegtables=page.jpegtables)
        # A tile at the border reaches beyond it.
        return pixels[0, : shape[1], : shape[2]], place[2], place[3]
