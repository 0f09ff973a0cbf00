"""Polygons at the door of the operators: nested lists and arrays become three tensors.

Inside, K objects are points [P, 2] float64 (x, y), parts [Q + 1] int64 (where each polygon's points begin) and objects
[K + 1] int64 (where each object's polygons begin).
"""

import ctypes
from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from htc_fast.errors import short
from htc_fast.ops import _native
from htc_fast.ops._arguments import items

# Beyond it, doubles no longer tell fifths of a pixel apart, and nothing in a picture is as large.
LARGEST = 1e15
FORMS = "a list x1, y1, x2, y2, ... or of points [x, y], or an array of either shape"


class Polygons(NamedTuple):
    """K objects as polygons."""

    points: Tensor  # [P, 2] float64: x, y
    parts: Tensor  # [Q + 1] int64
    objects: Tensor  # [K + 1] int64


def read(polygons: Any) -> Polygons:
    """K objects, each a list of polygons or one polygon alone, as tensors on the host.

    raises  TypeError for what is no polygon, ValueError for half a point and for what is not finite or beyond 1e15
    """
    given = items("polygons", polygons)
    pack = getattr(_native.build, "pack_polygons", None)
    packed = pack(given) if pack is not None else None
    points, parts, objects = packed or _packed(given)
    xy = torch.frombuffer(points, dtype=torch.float64) if points else torch.empty(0, dtype=torch.float64)
    starts = (torch.frombuffer(one, dtype=torch.int64) for one in (parts, objects))
    found = Polygons(xy.view(-1, 2), *starts)
    if len(given) > 2 and bool((found.parts.diff() == 1).all()) and len(found.parts) == len(found.objects):
        raise ValueError("polygons holds points alone: it is a list of objects, so that of one polygon is [polygon].")
    # The native packing takes nothing that is farther away.
    if packed is None and not bool((xy.abs() <= LARGEST).all()):
        point = int(xy.abs().le(LARGEST).logical_not().nonzero()[0, 0]) // 2
        part = int(torch.searchsorted(found.parts, point, right=True)) - 1
        index = int(torch.searchsorted(found.objects, part, right=True)) - 1
        pair = ", ".join(f"{value:g}" for value in found.points[point].tolist())
        raise ValueError(f"polygons[{index}] has a point at {pair}: coordinates must be finite, at most 1e15 from 0.")
    return found


def _packed(given: list) -> tuple[array, array, array]:
    """The same buffers as the native packing makes, of every form."""
    # A double's buffer takes a list of numbers at once; whatever it refuses is looked at.
    numbers, parts, objects = array("d"), array("q", [0]), array("q", [0])
    take = numbers.fromlist
    for index, one in enumerate(given):
        alone = type(one) is not list or (len(one) > 0 and _is_point(one[0]))
        for polygon in _polygons(f"polygons[{index}]", one) if alone else one:
            try:
                take(polygon)
            except (TypeError, OverflowError):
                _take(f"polygons[{index}]", numbers, polygon)
            if len(numbers) % 2:
                raise ValueError(f"polygons[{index}] holds half a point: a polygon is {FORMS}.")
            parts.append(len(numbers) // 2)
        objects.append(len(parts) - 1)
    return numbers, parts, objects


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (getattr(value, "ndim", 1) == 0 and hasattr(value, "__float__"))


def _is_point(value: Any) -> bool:
    """Whether what stands first in an object is a number or a point, and the object one polygon alone."""
    return _is_number(value) or (hasattr(value, "__len__") and len(value) == 2 and all(map(_is_number, value)))


def _polygons(name: str, one: Any) -> list:
    """The polygons of an object that is no plain list of them."""
    if hasattr(one, "ndim") and hasattr(one, "tolist"):
        return [one] if one.ndim == 1 or (one.ndim == 2 and one.shape[1] == 2) else list(one)
    if isinstance(one, Mapping):
        raise TypeError(f"{name} must be a list of polygons, got {short(one)}: give a COCO annotation's segmentation.")
    found = items(name, one)
    return [found] if found and _is_point(found[0]) else found


def _take(name: str, numbers: array, polygon: Any) -> None:
    """A polygon of any other form than a list of numbers, at the buffer's end."""
    if hasattr(polygon, "ndim") and hasattr(polygon, "tolist"):
        if polygon.ndim > 2 or (polygon.ndim == 2 and polygon.shape[1] != 2):
            raise ValueError(f"{name} holds an array {list(polygon.shape)}: a polygon is {FORMS}.")
        if isinstance(polygon, Tensor):
            kept = polygon.detach().to("cpu", torch.float64).contiguous()
            numbers.frombytes(ctypes.string_at(kept.data_ptr(), kept.nbytes))
        else:
            numbers.frombytes(polygon.astype("float64").tobytes())
        return
    try:
        values = items(name, polygon)
        if values and all(hasattr(point, "__len__") and len(point) == 2 for point in values):
            values = list(chain.from_iterable(values))
        if any(isinstance(value, str) for value in values):
            raise TypeError
        numbers.extend(map(float, values))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a list of polygons, each {FORMS}, got {short(polygon)}.") from None
    except OverflowError:
        raise ValueError(f"{name} has a number too large for a double: {short(polygon)}.") from None
