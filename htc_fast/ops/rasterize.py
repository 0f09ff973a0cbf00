"""From polygons to masks: COCO run lengths of the picture, or the small masks of boxes, without a bitmap in between."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend, _polygons, _rle
from htc_fast.ops._arguments import check_integers, check_tensor, integer, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import rasterize as reference

MOST_BINS = 2**15 - 1
_backend.register("rasterize", "cpp")
_backend.register("rasterize_in_boxes", "cpp")


def rasterize(polygons: Any, image_size: tuple[int, int]) -> list[dict[str, list[int] | bytes]]:
    """COCO RLE of objects given as polygons: pycocotools' pixels, string for string.

    polygons    K objects, each a list of polygons, whose union it is, or one polygon alone. A polygon is a list of
                x1, y1, x2, y2, ... in pixels or of points [x, y], or an array or tensor [2P] or [P, 2]; below three
                points it has no pixels. An outline may be of any length and reach 1e15 pixels away
    image_size  height, width
    returns     K dicts {"size": [H, W], "counts": bytes}, as pycocotools writes and reads them; an object without
                polygons is an empty mask
    raises      ValueError for a coordinate that is not finite or beyond 1e15 and for half a point; TypeError
    source      rleFrPoly and rleMerge of the COCO API, in double, number for number
    """
    height, width = sides("image_size", image_size)
    found = _polygons.read(polygons)
    if _backend.backend_for("rasterize", found.points) == "reference":
        strings = reference.rasterize(*found, height, width)
    else:
        strings = _rle.split(*torch.ops.htc_fast.rasterize(*found, height, width))
    return [{"size": [height, width], "counts": one} for one in strings]


def rasterize_in_boxes(polygons: Any, boxes: Any, size: int = 28, index: Any = None, device: Any = None) -> Any:
    """What mask heads learn, straight from polygons: each object inside its box, as size x size cells.

    polygons  K objects, as `rasterize` takes them
    boxes     [G, 4]  x1, y1, x2, y2 in pixels of the image; float32 ones are subtracted and scaled by in float32, as
                      NumPy 2 does it in detectron2, others in float64
    size      cells along either side
    index     [G]     integers: which object each box is for; None: box g is object g's, and G = K
    device    where the result is wanted; None: where the boxes are
    returns   [G, size, size]  bool (`.float()` for a loss); False for a box that is not finite or reaches beyond 1e15;
              NumPy where boxes are NumPy's
    raises    ValueError, TypeError as `rasterize`; where index is out of range, or missing and G is not K
    source    detectron2's rasterize_polygons_within_box: moved by the box's corner, scaled by size / max(side, 0.1)
    """
    as_numpy = not isinstance(boxes, Tensor) and hasattr(boxes, "__array__")
    boxes = boxes.detach() if isinstance(boxes, Tensor) else _tensor("boxes", boxes)
    check_tensor("boxes", boxes)
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.is_complex():
        raise ValueError(f"boxes must be [G, 4] (x1, y1, x2, y2), got {list(boxes.shape)} of {boxes.dtype}.")
    size, device = integer("size", size, 1, MOST_BINS), boxes.device if device is None else device
    found = _polygons.read(polygons)
    chosen = _chosen(index, len(boxes), len(found.objects) - 1)
    single = boxes.dtype in (torch.float32, torch.float16, torch.bfloat16)
    given = *found, boxes.to("cpu", torch.float64).contiguous(), chosen, size, single
    if _backend.backend_for("rasterize_in_boxes", found.points) == "reference":
        out = reference.rasterize_in_boxes(*given)
    else:
        out = torch.ops.htc_fast.rasterize_in_boxes(*given)
    return out.numpy() if as_numpy else out.to(device)


def _tensor(name: str, values: Any) -> Tensor:
    if hasattr(values, "__array__"):
        return torch.tensor(values)
    values = [list(row) for row in values] if hasattr(values, "__iter__") else values
    try:
        return torch.tensor(values, dtype=torch.float64).reshape(-1, 4)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a tensor or a list [G, 4] of numbers.") from None


def _chosen(index: Any, boxes: int, objects: int) -> Tensor:
    """Which object each box is for, int64 [G] on the host, in range."""
    if index is None:
        if boxes != objects:
            raise ValueError(f"boxes must be one for each of {objects} objects, got {boxes}: give index to choose.")
        return torch.arange(boxes)
    index = index if isinstance(index, Tensor) else torch.as_tensor(index, dtype=None if len(index) else torch.int64)
    check_integers(index=index)
    if index.shape != (boxes,) or index.dtype == torch.bool:
        raise ValueError(f"index must be [G] = [{boxes}] integers like boxes, got {list(index.shape)} {index.dtype}.")
    index = index.to("cpu", torch.int64).contiguous()
    if boxes and not (0 <= int(index.min()) and int(index.max()) < objects):
        raise ValueError(
            f"index must name objects from 0 to {objects - 1}, got {int(index.min())} to {int(index.max())}."
        )
    return index


def _fake(points, parts, objects, height, width):
    text = points.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)
    return text, objects.new_empty(objects.shape[0])


def _fake_in_boxes(points, parts, objects, boxes, index, size, single):
    return boxes.new_empty(boxes.shape[0], size, size, dtype=torch.bool)


declare("rasterize(Tensor points, Tensor parts, Tensor objects, int height, int width) -> (Tensor, Tensor)", _fake)
declare(
    "rasterize_in_boxes(Tensor points, Tensor parts, Tensor objects, Tensor boxes, Tensor index, int size, bool single)"
    " -> Tensor",
    _fake_in_boxes,
)
