"""From the mask head's small masks to masks of the image."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_device, check_floats, check_tensors, real, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import paste_masks as reference

_backend.register("paste_masks", "cpp", "cuda")


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Put each box's small mask back into the image.

    masks       [K, h, w]  probabilities
    boxes       [K, 4]     x1, y1, x2, y2 in pixels of the image
    image_size  height, width
    returns     [K, H, W]  bool, mask >= threshold at every pixel centre, False outside the box; no gradient
    raises      ValueError if masks and boxes differ in K, TypeError for integers
    source      Mask R-CNN, detectron2's pixel-centre convention
    """
    height, width = check_masks(masks, boxes, image_size)
    threshold = real("threshold", threshold)
    if _backend.backend_for("paste_masks", masks) == "reference":
        return reference.paste_masks(masks, boxes, height, width, threshold)
    return torch.ops.htc_fast.paste_masks(masks.detach(), boxes.detach(), height, width, threshold)


def check_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> tuple[int, int]:
    """The image's height and width, once everything fits together."""
    check_tensors(masks=masks, boxes=boxes)
    if masks.dim() != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"masks must be [K, h, w] with h and w at least 1, got {list(masks.shape)}.")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.shape[0] != masks.shape[0]:
        raise ValueError(f"boxes must be [K, 4] = [{masks.shape[0]}, 4] like masks, got {list(boxes.shape)}.")
    check_floats("masks", masks)
    check_floats("boxes", boxes)
    check_device("masks", masks, "boxes", boxes)
    return sides("image_size", image_size)


def _fake(masks, boxes, height, width, threshold):
    return masks.new_empty(masks.shape[0], height, width, dtype=torch.bool)


declare("paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> Tensor", _fake)
