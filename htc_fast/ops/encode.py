"""Whole masks to COCO run lengths."""

from typing import Any

import torch

from htc_fast.ops import _backend, _native, _rle
from htc_fast.ops._arguments import check_tensor
from htc_fast.ops._declare import declare
from htc_fast.ops._masks import is_array, tensor_of
from htc_fast.ops.reference import encode as reference

_backend.register("encode", "cpp", "cuda")
BYTES = (torch.bool, torch.uint8, torch.int8)


def encode(masks: Any) -> Any:
    """COCO RLE of whole masks, string for string what `pycocotools.mask.encode` writes.

    masks    [K, H, W] or [H, W]  bool or integers, a tensor or an array; what is not 0 is the mask
    returns  K dicts {"size": [H, W], "counts": bytes}; one dict for [H, W]
    raises   TypeError for floating point, which needs a threshold first; ValueError for another number of dimensions
    source   COCO API's compressed run lengths
    """
    if is_array(masks) and masks.dtype.kind not in "biufc":
        raise TypeError(f"masks must be bool or integers, got an array of {masks.dtype}.")
    masks = tensor_of(masks)
    check_tensor("masks", masks)
    if masks.is_floating_point() or masks.is_complex():
        raise TypeError(f"masks must be bool or integers, got {masks.dtype}: compare with a threshold first.")
    if masks.dim() not in (2, 3):
        raise ValueError(f"masks must be [K, H, W] or [H, W], got {list(masks.shape)}.")
    alone, masks = masks.dim() == 2, masks[None] if masks.dim() == 2 else masks
    height, width = masks.shape[1:]
    if masks.dtype not in BYTES:
        masks = masks != 0
    if masks.device.type not in ("cpu", "cuda") or (
        masks.device.type == "cuda" and _backend.forced_backend() is None and not _native.has("encode", "CUDA")
    ):
        masks = masks.cpu()  # no kernel there: the masks travel
    if _backend.backend_for("encode", masks) == "reference":
        strings = reference.encode(masks)
    else:
        strings = _rle.split(*torch.ops.htc_fast.encode(masks))
    made = [{"size": [height, width], "counts": one} for one in strings]
    return made[0] if alone else made


declare("encode(Tensor masks) -> (Tensor, Tensor)", _rle.fake_strings)
