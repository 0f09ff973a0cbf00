"""From prototypes and coefficients, as YOLO-seg and YOLACT give them, to COCO run lengths, without masks between."""

from typing import Any

import torch
from torch import Tensor

from htc_fast.errors import choose
from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._arguments import check_device, check_floats, check_tensors, real, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.encode_logits import region
from htc_fast.ops.reference import encode_prototypes as reference
from htc_fast.ops.reference.encode_masks import strings_of

CUTS = "before", "after"
_backend.register("encode_prototypes", "cpp", "cuda")


def encode_prototypes(
    coefficients: Tensor,
    prototypes: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.0,
    crop: tuple[float, float, float, float] | None = None,
    cut: str = "after",
) -> list[dict[str, Any]]:
    """COCO RLE of products of coefficients and prototypes, cut to boxes, resized to the image, above the threshold.

    coefficients  [K, P]
    prototypes    [P, h, w]
    boxes         [K, 4]     x1, y1, x2, y2 in pixels of the image
    image_size    height, width
    crop          x1, y1, x2, y2 in the prototypes' own cells: the part that shows the image, where the rest is padding
                  of a letterbox; None: all of it
    cut           "after": the box cuts the image's pixels, as ultralytics does since 8.4; "before": it cuts the
                  prototypes' cells, and a mask may fade out a cell beyond it, as ultralytics' process_mask did earlier
    returns       K dicts {"size": [H, W], "counts": bytes}, as pycocotools writes and reads them
    raises        ValueError, TypeError; a box that is not finite has no pixels
    source        YOLACT, section 3; float32, prototype by prototype in their order
    """
    check_tensors(coefficients=coefficients, prototypes=prototypes, boxes=boxes)
    if prototypes.dim() != 3 or 0 in prototypes.shape[1:]:
        raise ValueError(f"prototypes must be [P, h, w] with h and w at least 1, got {list(prototypes.shape)}.")
    if coefficients.dim() != 2 or coefficients.shape[1] != prototypes.shape[0]:
        raise ValueError(f"coefficients must be [K, P] = [K, {prototypes.shape[0]}], got {list(coefficients.shape)}.")
    if list(boxes.shape) != [len(coefficients), 4]:
        raise ValueError(f"boxes must be [K, 4] = [{len(coefficients)}, 4], got {list(boxes.shape)}.")
    for name, one in (("coefficients", coefficients), ("prototypes", prototypes), ("boxes", boxes)):
        check_floats(name, one)
        check_device(name, one, "prototypes", prototypes)
    height, width = sides("image_size", image_size)
    threshold, after = real("threshold", threshold), choose(cut, CUTS, "cut") == "after"
    if threshold < 0 and not after:
        raise ValueError(
            f'threshold must not be negative with cut="before", where all is 0 beyond the boxes, got {threshold}: '
            'use cut="after".'
        )
    if prototypes.device.type == "cuda" and _backend.forced_backend() is None and not _native.has_cuda():
        coefficients, prototypes, boxes = coefficients.cpu(), prototypes.cpu(), boxes.cpu()  # built without nvcc
    shown = region(crop, *prototypes.shape[1:])
    given = coefficients.detach(), prototypes.detach(), boxes.detach(), height, width, threshold, shown, after
    if _backend.backend_for("encode_prototypes", prototypes) == "reference":
        strings = strings_of(reference.encode_prototypes(*given))
    else:
        strings = _rle.split(*torch.ops.htc_fast.encode_prototypes(*given))
    return [{"size": [height, width], "counts": one} for one in strings]


def _fake(coefficients, prototypes, boxes, height, width, threshold, crop, cut_after):
    return _rle.fake_strings(coefficients)


declare(
    "encode_prototypes(Tensor coefficients, Tensor prototypes, Tensor boxes, int height, int width, float threshold, "
    "float[] crop, bool cut_after) -> (Tensor, Tensor)",
    _fake,
)
