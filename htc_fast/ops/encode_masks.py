"""From the mask head's small masks to COCO run lengths, without the masks in between."""

import torch
from torch import Tensor

from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._arguments import real
from htc_fast.ops._declare import declare
from htc_fast.ops.paste_masks import check_masks
from htc_fast.ops.reference import encode_masks as reference

_backend.register("encode_masks", "cpp", "cuda")


def encode_masks(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5
) -> list[dict[str, list[int] | bytes]]:
    """COCO RLE of what `paste_masks` would give, string for string; the full masks are never built.

    masks       [K, h, w]  probabilities
    boxes       [K, 4]     x1, y1, x2, y2 in pixels of the image
    image_size  height, width
    returns     K dicts {"size": [H, W], "counts": bytes}, as pycocotools writes and reads them
    raises      ValueError if masks and boxes differ in K, TypeError for integers
    source      COCO API's compressed run lengths
    """
    height, width = check_masks(masks, boxes, image_size)
    threshold = real("threshold", threshold)
    if masks.device.type == "cuda" and _backend.forced_backend() is None and not _native.has_cuda():
        # Built without nvcc: the small masks travel, 3 KB each, and become run lengths in C++.
        masks, boxes = masks.cpu(), boxes.cpu()
    if _backend.backend_for("encode_masks", masks) == "reference":
        strings = reference.encode_masks(masks, boxes, height, width, threshold)
    else:
        found = torch.ops.htc_fast.encode_masks(masks.detach(), boxes.detach(), height, width, threshold)
        strings = _rle.split(*found)
    return [{"size": [height, width], "counts": one} for one in strings]


def _fake(masks, boxes, height, width, threshold):
    return _rle.fake_strings(masks)  # the host's, wherever the masks are


declare("encode_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> (Tensor, Tensor)", _fake)
