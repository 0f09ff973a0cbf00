"""Pictures that are read in bands of rows, so that memory does not grow with them: PNG row by row, TIFF by segments.

Pixels are those that `load_image` gives. What a band alone cannot give, because it needs the whole picture, is read
whole: other formats, interlaced and animated PNG, colours of 16 bits, and whatever EXIF turns.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from htc_fast.data.decode import opened
from htc_fast.data.formats import RAW
from htc_fast.data.pictures import load_image
from htc_fast.data.png import PngRows
from htc_fast.data.tiff import TiffSegments
from htc_fast.errors import UserError

SMALL = 1 << 24  # pixels up to which a picture is read whole: 50 MB
MOST_PIXELS = 2**31 - 1  # as many as run lengths count
READERS: dict[str | None, Callable[..., Any]] = {"PNG": PngRows.of, "TIFF": TiffSegments.of}


class Windows:
    """A picture that gives bands of its rows.

    size  (height, width)
    kind  how it is read: "PNG", "TIFF", or "whole"
    """

    def __init__(self, size: tuple[int, int], read: Any, kind: str = "whole"):
        self.size, self.kind, self._read = size, kind, read

    @staticmethod
    def whole(pixels: np.ndarray) -> "Windows":
        """Of pixels uint8 [H, W, 3]."""
        return Windows((pixels.shape[0], pixels.shape[1]), _Whole(pixels))

    def read(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> np.ndarray:
        """Some rows, all columns or some.

        returns  uint8 [bottom - top, right - left, 3]; quick where each band begins behind the last one's beginning
        raises   UserError where the file turns out to be damaged
        """
        return self._read.read(top, bottom, left, self.size[1] if right is None else right)

    def reduced(self, most: int) -> np.ndarray:
        """Every n-th pixel of every n-th row, uint8 [h, w, 3], with the smallest n that leaves `most` a side."""
        height, width = self.size
        step = -(-max(height, width) // most)
        band = max(step, 512 // step * step)
        # A copy of each, as a view would keep its whole band.
        rows = [self.read(top, min(top + band, height))[::step, ::step].copy() for top in range(0, height, band)]
        return np.concatenate(rows)

    def close(self) -> None:
        """Close the file."""
        self._read.close()

    def __enter__(self) -> "Windows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Whole:
    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        return self.pixels[top:bottom, left:right]

    def close(self) -> None:
        """Nothing is open."""


def open_windows(source: Any, size: tuple[int, int] | None = None, small: int = SMALL) -> Windows:
    """A picture to take bands of.

    source  as for `load_image`
    size    expected (height, width), as there
    small   pictures of so many pixels or fewer are read whole
    raises  UserError as there, and for more pixels than run lengths count
    """
    if isinstance(source, (str, os.PathLike)):
        what = f"picture {str(os.fspath(source))[-300:]}"
        with opened(source, what) as picture:
            form, height, width = picture.format, picture.height, picture.width
        if height * width > MOST_PIXELS:
            raise UserError(
                f"{what} is {width} x {height} pixels: masks count no further than {MOST_PIXELS:,}, so cut it up."
            )
        fits = height * width > small and size in (None, (height, width)) and not what.lower().endswith(RAW)
        reader = READERS[form](source, what) if fits and form in READERS else None
        if reader is not None:
            return Windows((height, width), reader, form or "")
    return Windows.whole(load_image(source, size))
