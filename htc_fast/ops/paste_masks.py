"""From the mask head's small masks to masks of the image."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_device, check_floats, check_tensors, flag, real, sides
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import paste_masks as reference

_backend.register("paste_masks", "cpp", "cuda")


def paste_masks(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float = 0.5, beyond_box: bool = False
) -> Tensor:
    """Put each box's small mask back into the image.

    masks       [K, h, w]  probabilities
    boxes       [K, 4]     x1, y1, x2, y2 in pixels of the image
    image_size  height, width
    beyond_box  half a cell of the mask around the box too, where its rim fades into zeros: what detectron2 and
                mmdetection paste at thresholds below 0.5 (on a CPU they go no further than a pixel from the box)
    returns     [K, H, W]  bool, mask >= threshold at every pixel centre, False outside the box; no gradient
    raises      ValueError if masks and boxes differ in K, TypeError for integers
    source      Mask R-CNN, detectron2's pixel-centre convention; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        if beyond_box:
            masks, boxes = _with_rim(masks, boxes)
        return torch.ops.htc_fast.paste_masks(masks.detach(), boxes.detach(), image_size[0], image_size[1], threshold)
    else:
        return _paste_masks(masks, boxes, image_size, threshold, beyond_box)


def _paste_masks(masks, boxes, image_size, threshold, beyond_box) -> Tensor:
    height, width = check_masks(masks, boxes, image_size)
    threshold = real("threshold", threshold)
    if flag("beyond_box", beyond_box):
        masks, boxes = _with_rim(masks, boxes)
    if _backend.backend_for("paste_masks", masks) == "reference":
        return reference.paste_masks(masks, boxes, height, width, threshold)
    return torch.ops.htc_fast.paste_masks(masks.detach(), boxes.detach(), height, width, threshold)


def _with_rim(masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """A cell of zeros around each mask, in a box that is larger by as much."""
    boxes = boxes.detach().float()
    low, high = boxes[:, :2], boxes[:, 2:]
    sides = high - low
    # Not a tensor of the sizes, which would be a constant in a trace.
    rim = torch.cat([sides[:, :1] / masks.shape[2], sides[:, 1:] / masks.shape[1]], dim=1)
    return torch.nn.functional.pad(masks.detach(), [1, 1, 1, 1]), torch.cat([low - rim, high + rim], dim=1)


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
