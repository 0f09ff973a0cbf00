"""encode as pycocotools does it."""

from torch import Tensor


def encode(masks: Tensor) -> list[bytes]:
    """masks [K, H, W] -> K strings."""
    from pycocotools import mask as coco_mask  # here, not above: the operators need torch alone

    pixels = masks.ne(0).permute(1, 2, 0).byte().cpu().numpy()
    return [one["counts"] for one in coco_mask.encode(pixels.copy(order="F"))]
