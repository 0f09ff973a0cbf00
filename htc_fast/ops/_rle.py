"""COCO RLE dicts at the door of the operators: what people give becomes runs, and runs become what people take.

Inside, K masks are three tensors: runs [T, 2] int64 (begin and end of each run of ones, in pixels column by column),
offsets [K + 1] (where each mask's runs begin), sizes [K, 2] (height, width of its image).
"""

import ctypes
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from htc_fast.errors import MOST, short
from htc_fast.ops import _backend, _native
from htc_fast.ops._arguments import items
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import rle as reference

FAULTS = {
    1: "its counts are no run lengths: a letter that COCO's strings do not have, or the end in the middle of a number",
    2: "one of its counts is negative",
    3: "its counts do not add up to height times width of its size",
}


class Runs(NamedTuple):
    """K masks as runs of ones."""

    runs: Tensor  # [T, 2] int64: begin, end
    offsets: Tensor  # [K + 1] int64
    sizes: Tensor  # [K, 2] int64: height, width


class Texts(NamedTuple):
    """K masks as COCO's compressed strings, one after another."""

    text: Tensor  # [B] uint8
    offsets: Tensor  # [K + 1] int64
    sizes: Tensor  # [K, 2] int64: height, width

    def strings(self) -> list[bytes]:
        return split(self.text, self.offsets)


def pack(name: str, rles: Any) -> Texts:
    """COCO RLE dicts as strings one after another; what the strings say is not looked at.

    raises  TypeError for what is no RLE
    """
    rles = [rles] if isinstance(rles, Mapping) else items(name, rles)
    sizes, texts = [], []
    for index, rle in enumerate(rles):
        size, text = _usual(rle) or _parts(f"{name}[{index}]", rle)
        sizes.append(size)
        texts.append(text)
    text, offsets = b"".join(texts), [0, *accumulate(map(len, texts))]
    packed = torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)[: len(text)]
    return Texts(packed, _int64s(offsets), _int64s(chain.from_iterable(sizes)).reshape(-1, 2))


def read(name: str, rles: Any) -> Runs:
    """COCO RLE dicts as runs, checked.

    name    the argument's, for what is said of it
    rles    K dicts {"size": [height, width], "counts": bytes, str or a list of whole numbers}, or one dict
    raises  TypeError for what is no RLE, ValueError for one that does not fill its image
    """
    given = pack(name, rles)
    if _backend.forced_backend() == "reference":
        runs, ends, faults = reference.read_runs(given.strings(), given.sizes.tolist())
    else:
        _native.require()
        runs, ends, faults = torch.ops.htc_fast.read_runs(*given)
    refuse(name, faults, given.sizes)
    return Runs(runs, ends, given.sizes)


def refuse(name: str, faults: Tensor, sizes: Tensor) -> None:
    """raises  ValueError for the first mask that has a fault"""
    if faults.any():
        index = int(faults.ne(0).nonzero()[0, 0])
        size, fault = sizes[index].tolist(), FAULTS[int(faults[index])]
        raise ValueError(f"{name}[{index}] is no RLE of a picture of {size}: {fault}.")


def write(masks: Runs) -> list[dict[str, Any]]:
    """Runs as COCO RLE dicts {"size": [height, width], "counts": bytes}, the strings that pycocotools writes."""
    if _backend.forced_backend() == "reference":
        strings = reference.write_runs(*masks)
    else:
        _native.require()
        strings = split(*torch.ops.htc_fast.write_runs(*masks))
    return [{"size": size, "counts": one} for size, one in zip(masks.sizes.tolist(), strings, strict=True)]


def split(text: Tensor, offsets: Tensor) -> list[bytes]:
    """The strings that lie in one buffer of the host's; without numpy, which torch need not have."""
    everything, ends = ctypes.string_at(text.data_ptr(), text.numel()), offsets.tolist()
    return [everything[begin:end] for begin, end in pairwise(ends)]


def _int64s(numbers: Iterable[int]) -> Tensor:
    """Many integers as a tensor, several times as fast as torch.tensor."""
    listed = array("q", numbers)
    return torch.frombuffer(listed, dtype=torch.int64) if listed else torch.empty(0, dtype=torch.int64)


def _usual(rle: Any) -> tuple[list[int], bytes] | None:
    """What `_parts` says of what pycocotools and we write ourselves; None for anything else."""
    if type(rle) is not dict:
        return None
    size, counts = rle.get("size"), rle.get("counts")
    if type(counts) is not bytes or type(size) is not list or len(size) != 2:
        return None
    height, width = size
    plain = type(height) is int and type(width) is int and 0 <= height <= MOST and 0 <= width <= MOST
    return (size, counts) if plain else None


def _parts(name: str, rle: Any) -> tuple[list[int], bytes]:
    """Size and compressed counts of one RLE."""
    if not isinstance(rle, Mapping) or "counts" not in rle or "size" not in rle:
        raise TypeError(f'{name} must be a COCO RLE dict {{"size": [height, width], "counts": ...}}, got {short(rle)}.')
    size, counts = [whole(f"{name}'s size", side) for side in items(f"{name}'s size", rle["size"])], rle["counts"]
    if len(size) != 2 or min(size) < 0 or max(size) > MOST:
        raise ValueError(f"{name}'s size must be [height, width] below 2^31, got {short(rle['size'])}.")
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")
    if isinstance(counts, (bytes, bytearray, memoryview)):
        return size, bytes(counts)
    listed = [whole(f"{name}'s counts", one) for one in items(f"{name}'s counts", counts)]
    if listed and min(listed) >= 0 and sum(listed) != size[0] * size[1]:
        raise ValueError(f"{name} is no RLE of a picture of {size}: {FAULTS[3]}.")
    return size, compressed(listed)


def whole(name: str, value: Any) -> int:
    """A whole number, of whatever library.

    raises  TypeError
    """
    if type(value) is int:
        return value
    try:
        found = int(value)
        if isinstance(value, (str, bytes, bool)) or found != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be whole numbers, got {short(value)}.") from None
    return found


def compressed(counts: Sequence[int]) -> bytes:
    """COCO's string of uncompressed counts: each minus the one two before it, five bits a letter, lowest first."""
    out = bytearray()
    for index, count in enumerate(counts):
        left = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            digit = left & 31
            left >>= 5
            more = left != (-1 if digit & 16 else 0)
            out.append((digit | 32 if more else digit) + 48)
    return bytes(out)


def _fake_read(text, offsets, sizes):
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        sizes.new_empty(count, 2),
        sizes.new_empty(sizes.shape[0] + 1),
        sizes.new_empty(sizes.shape[0], dtype=torch.uint8),
    )


def _fake_write(runs, offsets, sizes):
    return fake_strings(sizes)


def fake_strings(masks: Tensor) -> tuple[Tensor, Tensor]:
    """For fake kernels: one buffer of the host's with a string for each of masks [K, ...], and where each begins."""
    text = torch.empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8, device="cpu")
    return text, torch.empty(masks.shape[0] + 1, dtype=torch.int64, device="cpu")


declare("read_runs(Tensor text, Tensor offsets, Tensor sizes) -> (Tensor, Tensor, Tensor)", _fake_read)
declare(
    "write_runs(Tensor runs, Tensor offsets, Tensor sizes) -> (Tensor, Tensor)", lambda *masks: fake_strings(masks[2])
)
