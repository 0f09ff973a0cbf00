"""The goals of masks as RoIAlign of one bitmap after the other."""

import torch
from torch import Tensor

from htc_fast.ops.reference.roi_align import roi_align_one


def mask_targets(layers: Tensor, rois: Tensor, layer: Tensor, number: Tensor, size: int) -> Tensor:
    """layers [N, L, H, W], rois [K, 5], layer [K], number [K] -> [K, size, size] float32, 0 or 1."""
    rois = rois.float()
    check_places(layers, rois, layer)
    out = torch.zeros(len(rois), size, size, device=rois.device)
    for goal, roi, own, value in zip(out, rois, layer.tolist(), number.tolist()):
        if value > 0 and roi.isfinite().all():
            bitmap = (layers[int(roi[0]), own].long() == value).float()
            goal[:] = roi_align_one(bitmap[None], roi[1:], (size, size), 1.0, 0, True)[0] >= 0.5
    return out


def check_places(layers: Tensor, rois: Tensor, layer: Tensor) -> None:
    """raises  RuntimeError if a RoI names an image or a layer that is not there; an image NaN is none"""
    images, depth = layers.shape[:2]
    image = rois[:, 0]
    wrong = ((image < 0) | (image >= images) | (layer < 0) | (layer >= depth)).nonzero().flatten().tolist()
    if wrong:
        k = wrong[0]
        raise RuntimeError(
            f"mask_targets: rois[{k}] names image {float(image[k]):g} and layer {int(layer[k])}, but there are "
            f"{images} images of {depth} layers, counted from 0."
        )
