"""From maps of logits, as queries and prompts give them, to COCO run lengths, without the resized maps."""

import math
from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import short
from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._arguments import check_floats, check_tensors, items, real, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import encode_logits as reference
from htc_fast.ops.reference.encode_masks import strings_of

_backend.register("encode_logits", "cpp", "cuda")


def encode_logits(
    logits: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.0,
    crop: tuple[float, float, float, float] | None = None,
) -> list[dict[str, Any]]:
    """COCO RLE of each map resized to the image, where it is above the threshold; the resized maps are never built.

    logits      [K, h, w]  one map per object: of queries (Mask2Former, RF-DETR) or prompts (SAM)
    image_size  height, width
    crop        x1, y1, x2, y2 in the map's own cells, whole or not: the part that shows the image, where the rest is
                padding of a letterbox; None: all of it
    returns     K dicts {"size": [H, W], "counts": bytes}, as pycocotools writes and reads them
    raises      ValueError, TypeError; a value that is not a number is not above the threshold
    source      F.interpolate(mode="bilinear", align_corners=False) > threshold, in float32, columns first
    """
    check_tensors(logits=logits)
    if logits.dim() != 3 or 0 in logits.shape[1:]:
        raise ValueError(f"logits must be [K, h, w] with h and w at least 1, got {list(logits.shape)}.")
    check_floats("logits", logits)
    height, width = sides("image_size", image_size)
    arguments = height, width, real("threshold", threshold), region(crop, *logits.shape[1:])
    if logits.device.type == "cuda" and _backend.forced_backend() is None and not _native.has_cuda():
        logits = logits.cpu()  # built without nvcc
    if _backend.backend_for("encode_logits", logits) == "reference":
        strings = strings_of(reference.encode_logits(logits, *arguments))
    else:
        strings = _rle.split(*torch.ops.htc_fast.encode_logits(logits.detach(), *arguments))
    return [{"size": [height, width], "counts": one} for one in strings]


def region(crop: Any, height: int, width: int) -> list[float]:
    """The part of a map [height, width] that shows the image: x1, y1, x2, y2 in cells.

    raises  TypeError, ValueError
    """
    if crop is None:
        return [0.0, 0.0, float(width), float(height)]
    found = [real("crop", one) for one in items("crop", crop)]
    # As the kernels have them.
    found = torch.tensor(found, dtype=torch.float32).tolist()
    inside = len(found) == 4 and all(map(math.isfinite, found))
    if not (inside and 0 <= found[0] < found[2] <= width and 0 <= found[1] < found[3] <= height):
        raise ValueError(
            f"crop must be x1, y1, x2, y2 in the map: x1 < x2 <= {width}, y1 < y2 <= {height}; got {short(crop)}."
        )
    return found


def _fake(logits, height, width, threshold, crop):
    return _rle.fake_strings(logits)


declare(
    "encode_logits(Tensor logits, int height, int width, float threshold, float[] crop) -> (Tensor, Tensor)",
    _fake,
)
