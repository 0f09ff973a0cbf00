"""Masks at the door of operators that compare them: COCO RLE dicts, or whole ones as a tensor or an array."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import ShapeError, short
from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._arguments import check_floats, check_tensor, items

METRICS = ("iou", "smaller")


def is_array(value: Any) -> bool:
    """Whether it is NumPy's; asking does not import NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def tensor_of(value: Any) -> Any:
    """An array as a tensor, on its memory where that can be; anything else as it is."""
    if not is_array(value):
        return value
    plain = value.flags.c_contiguous and value.flags.writeable and value.dtype.isnative
    return torch.from_numpy(value if plain else value.astype(value.dtype.newbyteorder("="), order="C"))


def like(given: tuple, found: Tensor) -> Any:
    """The tensor, or NumPy's array where one of those given was one."""
    return found.cpu().numpy() if any(map(is_array, given)) else found


def masks(name: str, value: Any) -> _rle.Runs | Tensor:
    """RLE dicts as runs, whole masks as a tensor [K, H, W] of bool.

    raises  TypeError for what is neither, ShapeError for masks of another rank
    """
    if not is_array(value) and not isinstance(value, Tensor):
        if not isinstance(value, (Mapping, list, tuple)):
            raise TypeError(f"{name} must be COCO RLE dicts or masks [K, H, W] of bool, got {short(value)}.")
        return one_size(name, _rle.read(name, value))
    if is_array(value) and value.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be bool, got an array of {value.dtype}.")
    value = tensor_of(value)
    check_tensor(name, value)
    if value.dim() != 3:
        raise ShapeError(f"{name} must be [K, H, W], got {list(value.shape)}.")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} must be bool, got {value.dtype}: compare them with a threshold first.")
    return value.detach() if value.dtype == torch.bool else value.detach() != 0


def one_size(name: str, runs: _rle.Runs) -> _rle.Runs:
    """raises  ValueError where masks are of images of several sizes"""
    if not torch.equal(runs.sizes, runs.sizes[:1].expand_as(runs.sizes)):
        index = int((runs.sizes != runs.sizes[:1]).any(dim=1).nonzero()[0, 0])
        sizes = f"{name}[0] is {runs.sizes[0].tolist()} and {name}[{index}] {runs.sizes[index].tolist()}"
        raise ValueError(f"masks that are compared must be of one size, but {sizes}: bring them to one image first.")
    return runs


def vector(name: str, value: Any, count: int, of: str, dtype: torch.dtype | None = None) -> Tensor:
    """One number for each of `count`, from a tensor, an array or a list.

    dtype   that of a list's numbers; None: as torch.tensor has it
    raises  TypeError, ShapeError
    """
    value = tensor_of(value)
    if not isinstance(value, Tensor):
        listed = items(name, value)
        try:
            value = torch.tensor(listed, dtype=dtype) if listed else torch.zeros(0, dtype=dtype)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be numbers, got {short(listed)}.") from None
    check_tensor(name, value)
    if value.shape != (count,):
        raise ShapeError(f"{name} must be [{count}], one for each of {of}, got {list(value.shape)}.")
    return value.detach()


def scores_of(value: Any, count: int) -> Tensor:
    """Scores [K], floating point."""
    scores = vector("scores", value, count, "masks", torch.float64)
    check_floats("scores", scores)
    return scores


def classes_of(value: Any, count: int) -> Tensor | None:
    """Classes [K], integers; None: all are of one."""
    if value is None:
        return None
    idxs = vector("idxs", value, count, "masks")
    if count and (idxs.is_floating_point() or idxs.is_complex()):
        raise TypeError(f"idxs must be integers, got {idxs.dtype}.")
    return idxs.long()


def ranked(scores: Tensor) -> Tensor:
    """Indices of scores, best first, ties by index; those that are NaN are left out. Waits for a GPU."""
    order = torch.sort(scores.nan_to_num(nan=-torch.inf).double(), descending=True, stable=True).indices
    return order[~scores[order].isnan()]


def native() -> bool:
    """Whether runs go to C++, which is required then, or to the reference."""
    if _backend.forced_backend() == "reference":
        return False
    _native.require()
    return True
