"""What mask heads learn, cut out of index maps that hold many objects each: no bitmap of a single one is made."""

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_device, check_floats, check_integers, check_tensors, integer
from htc_fast.ops._declare import declare
from htc_fast.ops.reference import mask_targets as reference

MOST_BINS = 2**15 - 1
_backend.register("mask_targets", "cpp", "cuda", "triton")


def mask_targets(layers: Tensor, rois: Tensor, layer: Tensor, number: Tensor, size: int = 28) -> Tensor:
    """Crop each RoI's object out of the index map that holds it: RoIAlign of its bitmap, at least one half.

    layers   [N, L, H, W]  int16 or int32: an object's number at its pixels, 0 where none is; objects of one layer do
                           not overlap
    rois     [K, 5]        image number, x1, y1, x2, y2 in pixels of the layers
    layer    [K]           integers: in which layer the RoI's object lies
    number   [K]           integers: its number there; below 1: no object
    size     bins along either side
    returns  [K, size, size]  float32, 0 or 1; zeros for RoIs without an object or that are not finite; no gradient
    raises   ValueError, TypeError; RuntimeError for an image or a layer out of range (on the CPU)
    source   Mask R-CNN, section 3; RoIAlign aligned, a sample per pixel, its pixels summed row by row in float32
    """
    check_tensors(layers=layers, rois=rois, layer=layer, number=number)
    if layers.dtype not in (torch.int16, torch.int32):
        raise TypeError(f"layers must be int16 or int32, got {layers.dtype}.")
    check_floats("rois", rois)
    check_integers(layer=layer, number=number)
    if layers.dim() != 4:
        raise ValueError(f"layers must be [N, L, H, W], got {list(layers.shape)}.")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be [K, 5] (image number first), got {list(rois.shape)}.")
    for name, one in (("layer", layer), ("number", number)):
        if one.shape != rois.shape[:1]:
            raise ValueError(f"{name} must be [K] = [{rois.shape[0]}] like rois, got {list(one.shape)}.")
    for name, one in (("layers", layers), ("layer", layer), ("number", number)):
        check_device(name, one, "rois", rois)
    size = integer("size", size, 1, MOST_BINS)
    backend = _backend.backend_for("mask_targets", layers)
    if backend == "reference":
        return reference.mask_targets(layers, rois.detach(), layer, number, size)
    return _backend.library(backend).mask_targets(layers, rois.detach(), layer, number, size)


def _fake(layers, rois, layer, number, size):
    return rois.new_empty(rois.shape[0], size, size, dtype=torch.float32)


declare(
    "mask_targets(Tensor layers, Tensor rois, Tensor layer, Tensor number, int size) -> Tensor",
    _fake,
    triton="mask_targets",
)
