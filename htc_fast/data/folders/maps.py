"""Maps of numbers, one number per object, as run lengths: no bitmap of a single object is made."""

from pathlib import Path

import numpy as np

from htc_fast.data import runs
from htc_fast.data.decode import opened
from htc_fast.errors import UserError


def instances_of(
    labels: np.ndarray, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> tuple[np.ndarray, list[dict]]:
    """The objects of a map.

    labels   [h, w] whole numbers, 0 where nothing is
    corner   column and row where its first pixel lies in the picture
    size     height and width of the picture; None: the map's
    returns  their numbers [K] in rising order, and a compressed RLE of each, counts as bytes
    """
    height, (full, width) = labels.shape[0], size or labels.shape
    if not labels.size:
        return np.zeros(0, dtype=np.int64), []
    flat = labels.T.ravel()
    # A run ends with the number, and with the column, which is another's length in the picture.
    starts = np.zeros(len(flat), dtype=bool)
    starts[1:] = flat[1:] != flat[:-1]
    starts[::height] = True
    begin = np.flatnonzero(starts)
    length = np.diff(np.append(begin, len(flat)))
    values = flat[begin]
    kept = values != 0
    begin, length, values = begin[kept], length[kept], values[kept]
    order = np.argsort(values, kind="stable")
    begin, length, values = begin[order], length[order], values[order]
    column, row = np.divmod(begin, height)
    begin = (corner[0] + column) * full + corner[1] + row
    end = begin + length
    # From the last row of a column to the first of the next, a run goes on.
    apart = np.append(True, (begin[1:] != end[:-1]) | (values[1:] != values[:-1])) if len(values) else kept[:0]
    last = np.append(apart[1:], True) if len(values) else apart
    begin, end, values = begin[apart], end[last], values[apart]
    numbers, offsets = np.unique(values, return_index=True)
    pairs = np.stack([begin, end], axis=1).astype(np.int64)
    return numbers, runs.written(pairs, np.append(offsets, len(values)).astype(np.int64), (full, width))


def crop_to_rle(mask: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> dict | None:
    """A bitmap that covers a part of a picture as the picture's RLE; what lies beyond is cut; None where all does."""
    x, y = corner
    top, left = max(-y, 0), max(-x, 0)
    inside = mask[top : max(size[0] - y, 0), left : max(size[1] - x, 0)]
    found = instances_of((inside != 0).astype(np.uint8), (x + left, y + top), size)[1]
    return found[0] if found else None


def read_map(path: Path) -> np.ndarray:
    """A label map's numbers, int64 [H, W]; colours that are not grey are numbers too, R + 256 G + 65536 B.

    raises  UserError if it cannot be read, or holds what are no numbers of objects
    """
    with opened(path, f"label map {path}") as picture:
        if picture.format in ("JPEG", "MPO"):
            raise UserError(f"label map {path} is a JPEG, which changes numbers: save it as PNG or TIFF.")
        if getattr(picture, "n_frames", 1) > 1:
            raise UserError(f"label map {path} holds several pages: expected one.")
        if len(picture.getbands()) > 1 and any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())):
            # Pillow keeps the higher byte alone, which is 0 for the first 255 objects.
            raise UserError(f"label map {path} holds colours of 16 bits: save its numbers as grey of 16 bits.")
        values = np.array(picture)
    if values.ndim == 3 and values.shape[2] >= 3:
        grey = (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all()
        values = values[..., 0] if grey else packed(values)
    elif values.ndim == 3:
        values = values[..., 0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise UserError(f"label map {path} holds numbers with a fraction: expected one whole number per object.")
    numbers = values.astype(np.int64)
    if numbers.size and numbers.min() < 0:
        raise UserError(f"label map {path} holds {numbers.min()}: expected 0 for nothing and above for objects.")
    return numbers


def packed(colours: np.ndarray) -> np.ndarray:
    """Colours [..., 3] as R + 256 G + 65536 B, int64."""
    return colours[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
