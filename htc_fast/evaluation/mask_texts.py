"""COCO segmentations as strings one after another: hundreds of thousands at a time, without an object for each."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from htc_fast.data.masks import to_rle, usable
from htc_fast.errors import MOST, UserError, short
from htc_fast.evaluation.objects import Masks
from htc_fast.ops import _evaluation, _rle
from htc_fast.ops._rle import Texts


def masks_of(segmentations: Sequence[Any] | Texts, sizes: np.ndarray, name: Callable[[int], str]) -> Masks:
    """Segmentations as strings, measured.

    segmentations  N RLE dicts or polygons, or strings already
    sizes          [N, 2] int64, height and width of their pictures; -1 where any size will do
    name           number -> what an object is called in an error
    raises         UserError for what is no segmentation of a picture of that size
    """
    plain = segmentations if isinstance(segmentations, Texts) else _plain(segmentations)
    if plain is None:
        segmentations = [
            _rle_of(one, size, name, n) for n, (one, size) in enumerate(zip(segmentations, sizes.tolist()))
        ]
        plain = _plain(segmentations)
        assert plain is not None
    own = plain.sizes.numpy()
    if (wrong := np.flatnonzero(((own != sizes) & (sizes >= 0)).any(axis=1))).size:
        n = int(wrong[0])
        raise UserError(
            f"{name(n)} has an RLE of size {own[n].tolist()}, but its picture has height, width {sizes[n].tolist()}: "
            "masks must be of their picture's size."
        )
    pixels, boxes, faults = _evaluation.measure_masks(plain)
    if faults.any():
        n = int(faults.nonzero()[0, 0])
        raise UserError(f"{name(n)} has no RLE of a picture of {own[n].tolist()}: {_rle.FAULTS[int(faults[n])]}.")
    return Masks(plain, pixels.numpy(), boxes.numpy())


def _plain(segmentations: Sequence[Any]) -> Texts | None:
    """Compressed RLEs as they stand; None where anything else is among them."""
    if not all(type(one) is dict for one in segmentations):
        return None
    try:
        counts = [one["counts"] for one in segmentations]
        flat = list(chain.from_iterable(one["size"] for one in segmentations))
        lengths = np.fromiter(map(len, counts), dtype=np.int64, count=len(counts))
        kinds = set(map(type, counts))
        if (not kinds <= {str} and not kinds <= {bytes}) or not set(map(type, flat)) <= {int}:
            return None
        text = bytearray("".join(counts), "ascii") if kinds <= {str} else bytearray().join(counts)
    except (KeyError, TypeError, UnicodeEncodeError):
        return None
    if len(flat) != 2 * len(counts) or any(len(one["size"]) != 2 for one in segmentations):
        return None
    if flat and (min(flat) < 0 or max(flat) > MOST):
        return None
    sizes = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2)
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(torch.from_numpy(lengths), 0, out=offsets[1:])
    packed = torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    return Texts(packed, offsets, sizes)


def _rle_of(segmentation: Any, size: list[int], name: Callable[[int], str], number: int) -> dict[str, Any]:
    """One segmentation of any kind as a compressed RLE of bytes; an empty one where nobody asks for it."""
    if min(size) < 0:
        return {"size": [0, 0], "counts": b""}
    given = dict(segmentation) if isinstance(segmentation, dict) else segmentation
    if isinstance(given, dict) and isinstance(given.get("counts"), (bytes, bytearray)):
        given["counts"] = bytes(given["counts"]).decode("latin-1")
    found = usable(given, *size)
    if found is None:
        raise UserError(
            f"{name(number)} has no segmentation of a picture of height, width {size}: expected an RLE of that size or "
            f"polygons, got {short(segmentation)}."
        )
    rle = to_rle(found, *size)
    if list(rle["size"]) != size:
        raise UserError(f"{name(number)} has polygons of fewer than three points: {short(segmentation)}.")
    counts = rle["counts"]
    return {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
