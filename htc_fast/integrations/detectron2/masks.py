"""detectron2.layers' pasting of masks."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from htc_fast import ops
from htc_fast.ops._arguments import check_tensor, real, sides

CHUNK = 2**28  # pixels at a time where masks are sampled over the whole image: 1 GiB of float32


def paste_masks_in_image(masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Put each box's small mask back into the image.

    masks        [K, M, M]  probabilities, bool or integers too
    boxes        [K, 4]     x1, y1, x2, y2 in pixels of the image, or detectron2's Boxes
    image_shape  height, width
    returns      [K, H, W]  bool, mask >= threshold at every pixel centre; a threshold below 0.5 also reaches just
                 outside the box, where the mask's rim fades out; a threshold below 0: uint8, 255 times the mask;
                 no masks: uint8 [0, H, W]
    raises       ValueError, TypeError
    source       detectron2's function of this name; works in torch.jit.script, with boxes as a tensor
    """
    if torch.jit.is_scripting():
        return _sampled(masks, boxes, image_shape[0], image_shape[1], threshold, False)
    else:
        return _paste(masks, boxes, image_shape, threshold)


def _paste(masks: Tensor, boxes: Any, image_shape: tuple[int, int], threshold: float) -> Tensor:
    boxes = getattr(boxes, "tensor", boxes)
    check_tensor("masks", masks)
    check_tensor("boxes", boxes)
    threshold = real("threshold", threshold)
    height, width = sides("image_shape", image_shape)
    if masks.dim() != 3 or (len(masks) and masks.shape[1] != masks.shape[2]):
        raise ValueError(f"masks must be square, [K, M, M], got {list(masks.shape)}.")
    if len(masks) == 0:
        return masks.new_empty(0, height, width, dtype=torch.uint8)
    if boxes.shape != (len(masks), 4):
        raise ValueError(f"boxes must be [K, 4] = [{len(masks)}, 4] like masks, got {list(boxes.shape)}.")
    masks = masks if masks.is_floating_point() else masks.float()
    # Outside the box a mask is worth less than half of its rim's cells: nothing is left of it there.
    if threshold >= 0.5 and threshold >= 0.5 * float(masks.detach().max()):
        return ops.paste_masks(masks, boxes.float(), (height, width), threshold)
    with torch.no_grad():
        return _sampled(masks, boxes, height, width, threshold, masks.device.type == "cpu")


def _sampled(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, tight: bool, chunk: int = CHUNK
) -> Tensor:
    """Every mask's value at pixels' centres, zeros around it; tight: only from a pixel around its box on."""
    masks = masks if masks.is_floating_point() else masks.float()
    kind = torch.bool if threshold >= 0 else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=kind, device=masks.device)
    step = 1 if tight else max(1, chunk // max(1, height * width))
    for first in range(0, len(masks), step):
        some = boxes[first : first + step]
        top, left, bottom, right = 0, 0, height, width
        if tight:
            corners = torch.nan_to_num(some[0].float())
            left, top = max(0, math.floor(float(corners[0])) - 1), max(0, math.floor(float(corners[1])) - 1)
            right = min(width, math.ceil(float(corners[2])) + 1)
            bottom = min(height, math.ceil(float(corners[3])) + 1)
        if right > left and bottom > top:
            across = _unit(left, right, some[:, 0:1], some[:, 2:3])[:, None, :].expand(-1, bottom - top, -1)
            down = _unit(top, bottom, some[:, 1:2], some[:, 3:4])[:, :, None].expand(-1, -1, right - left)
            grid = torch.stack([across, down], dim=3).to(masks.dtype)
            value = grid_sample(masks[first : first + step, None], grid, align_corners=False)[:, 0]
            found = value >= threshold if threshold >= 0 else (value * 255).to(torch.uint8)
            pasted[first : first + step, top:bottom, left:right] = found
    return pasted


def _unit(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Pixels' centres as grid_sample counts them: -1 at low [K, 1], 1 at high -> [K, last - first]."""
    centre = torch.arange(first, last, device=low.device, dtype=torch.float32) + 0.5
    return (centre - low) / (high - low) * 2 - 1
