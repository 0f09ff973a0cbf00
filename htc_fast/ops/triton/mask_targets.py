"""The goals of masks by Triton's RoIAlign, some bitmaps at a time: for GPUs without the native library."""

import torch
from torch import Tensor

from htc_fast.ops.triton.roi_align import multi_level_roi_align

PIXELS = 2**25  # of the bitmaps that are there at once: 128 MB in float32


def mask_targets(layers: Tensor, rois: Tensor, layer: Tensor, number: Tensor, size: int) -> Tensor:
    """layers [N, L, H, W], rois [K, 5], layer [K], number [K] -> [K, size, size] float32, 0 or 1."""
    images, depth, height, width = layers.shape
    out = torch.zeros(len(rois), size, size, device=rois.device)
    if 0 in layers.shape:
        return out
    rois, image = rois.float(), rois[:, 0]
    there = (image >= 0) & (image < images) & (layer >= 0) & (layer < depth) & (number > 0)
    # NaN is no image, and has no integer.
    index = torch.where(there, image, 0).long() * depth + torch.where(there, layer, 0)
    # As wide as a number may be: -1 is in no layer.
    number = torch.where(there, number, -1)
    step = max(PIXELS // (height * width), 1)
    for k in range(0, len(rois), step):
        part = slice(k, k + step)
        bitmaps = (layers.flatten(0, 1)[index[part]] == number[part, None, None])[:, None].float()
        own = torch.arange(len(bitmaps), device=rois.device, dtype=rois.dtype)
        boxes = torch.cat([own[:, None], rois[part, 1:]], dim=1)
        crops = multi_level_roi_align([bitmaps], boxes, size, size, [1.0], 0, True, 1.0, None, 1.0, 1)
        out[part] = crops[:, 0] >= 0.5
    return out
