"""What was found, from our Instances to detectron2's and back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.data.instances import Instances
from htc_fast.errors import short


def to_instances(found: Instances, masks: str | None = "bool") -> Any:
    """Our instances of one picture as detectron2's.

    found    what `model.predict` gives for a picture
    masks    "bool": pred_masks [n, H, W] bool; "rle": pred_masks_rle, n COCO RLE dicts; None: neither
    returns  detectron2's Instances: pred_boxes, scores, pred_classes (our labels) and the masks
    raises   TypeError, ValueError; ImportError without detectron2
    """
    from detectron2 import structures

    if not isinstance(found, Instances):
        raise TypeError(f"found must be one picture's instances as model.predict gives them, got {short(found)}.")
    if masks not in ("bool", "rle", None):
        raise ValueError(f"masks must be 'bool', 'rle' or None, got {short(masks)}.")
    given = structures.Instances(tuple(found.size))
    given.pred_boxes = structures.Boxes(found.boxes)
    given.scores, given.pred_classes = found.scores, found.labels
    if masks == "bool":
        given.pred_masks = found.masks.to(found.boxes.device)
    if masks == "rle":
        given.pred_masks_rle = list(found.rle)
    return given


def from_instances(found: Any, class_names: Sequence[str] = ()) -> Instances:
    """What a detectron2 detector found in one picture as our instances, with its masks as run lengths.

    found        detectron2's Instances with pred_boxes, scores, pred_classes and masks: pred_masks_rle, or pred_masks
                 bool [n, H, W], BitMasks, ROIMasks, or the mask head's [n, 1, M, M], which are pasted
    class_names  by label
    returns      our Instances, on the CPU
    raises       TypeError for what are no such instances; ValueError where they hold no masks, or those of another size
    """
    missing = [name for name in ("image_size", "pred_boxes", "scores", "pred_classes") if not hasattr(found, name)]
    if missing:
        raise TypeError(f"found must be detectron2's Instances with {missing[0]}, got {short(type(found).__name__)}.")
    height, width = (int(one) for one in found.image_size)
    boxes = found.pred_boxes.tensor.detach().cpu()
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"pred_boxes must be [n, 4], got {list(boxes.shape)}: rotated boxes are not taken.")
    if hasattr(found, "pred_masks_rle"):
        rle = list(found.pred_masks_rle)
    elif hasattr(found, "pred_masks"):
        masks = getattr(found.pred_masks, "tensor", found.pred_masks)
        rle = _encoded(masks.detach().cpu(), boxes, (height, width))
    else:
        raise ValueError("found holds no masks: expected pred_masks or pred_masks_rle, as of a Mask R-CNN.")
    labels, scores = found.pred_classes.detach().cpu(), found.scores.detach().cpu()
    return Instances(boxes, scores, labels.long(), rle, (height, width), class_names)


def _encoded(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict]:
    """masks [n, H, W] bool, or probabilities [n, M, M] or [n, 1, M, M] in boxes -> n RLE dicts."""
    if masks.dtype == torch.bool:
        if tuple(masks.shape[1:]) != size:
            raise ValueError(f"pred_masks must be [n, H, W] with {list(size)}, got {list(masks.shape)}.")
        return ops.encode(masks)
    whole = masks.dim() == 3 and (tuple(masks.shape[1:]) == size or masks.shape[1] != masks.shape[2])
    masks = masks[:, 0] if masks.dim() == 4 else masks
    if whole or masks.dtype == torch.uint8:
        raise ValueError(
            f"pred_masks of whole images must be bool, [n, H, W] with {list(size)}, got {list(masks.shape)} of "
            f"{masks.dtype}: compare them with a threshold."
        )
    return ops.encode_masks(masks.float(), boxes.float(), size)
