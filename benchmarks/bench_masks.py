"""Mask pasting and run-length encoding beside torchvision's paste and pycocotools' encode."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from htc_fast import ops
from tests.inputs import soft_masks

CASES = [(1, (480, 640)), (100, (800, 1333)), (1000, (480, 640)), (20, (4000, 6000))]


def runs(pasted) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(one)) for one in pasted.numpy().astype(np.uint8)]


def alike(ours, other, who):
    """torchvision's pixel centres differ by half a pixel: nearly the same area."""
    assert abs(ours.float().mean() - other.float().mean()) < 0.1 * other.float().mean() + 1e-3, f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), CASES)
def bench_paste(compare, count, image):
    masks, boxes = soft_masks(count, image)
    calls = {
        "htc_fast": lambda: ops.paste_masks(masks, boxes, image),
        "torchvision": lambda: paste_masks_in_image(masks[:, None], boxes, image)[:, 0] >= 0.5,
    }
    size = count * image[0] * image[1] / 1e9
    compare("masks", f"paste, {count} mask{'s' * (count > 1)} at {image[0]}×{image[1]}", calls, alike, size)


@pytest.mark.parametrize(("count", "image"), CASES)
def bench_encode(compare, count, image):
    masks, boxes = soft_masks(count, image)
    ours = ops.encode_masks(masks, boxes, image)
    assert [one["counts"] for one in ours] == [one["counts"] for one in runs(ops.paste_masks(masks, boxes, image))]
    calls = {
        "htc_fast": lambda: ops.encode_masks(masks, boxes, image),
        "torchvision + pycocotools": lambda: runs(paste_masks_in_image(masks[:, None], boxes, image)[:, 0] >= 0.5),
    }
    compare("masks", f"paste and encode, {count} mask{'s' * (count > 1)} at {image[0]}×{image[1]}", calls)
