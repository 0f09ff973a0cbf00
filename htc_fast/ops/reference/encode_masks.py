"""COCO run lengths of pasted masks, the long way: paste, then pycocotools."""

from torch import Tensor

from htc_fast.ops.reference.paste_masks import paste_masks


def strings_of(masks: Tensor) -> list[bytes]:
    """masks bool [K, H, W] -> compressed counts, one string per mask; needs pycocotools and numpy."""
    import numpy as np  # here, not above: the operators need torch alone
    from pycocotools import mask as coco_mask

    return [coco_mask.encode(np.asfortranarray(one.astype(np.uint8)))["counts"] for one in masks.cpu().numpy()]


def encode_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> list[bytes]:
    """masks [K, h, w], boxes [K, 4] -> compressed counts, one string per mask."""
    return strings_of(paste_masks(masks, boxes, height, width, threshold))
