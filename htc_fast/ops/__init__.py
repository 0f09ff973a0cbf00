"""The operators: drop-in functions for two-stage detectors, in C++, CUDA and Triton."""

from htc_fast.ops._backend import use_backend
from htc_fast.ops.encode_masks import encode_masks
from htc_fast.ops.nms import batched_nms, batched_nms_padded, nms
from htc_fast.ops.paste_masks import paste_masks
from htc_fast.ops.roi_align import multi_level_roi_align, roi_align
from htc_fast.ops.soft_nms import soft_nms
from htc_fast.ops.triton import library as _triton_library  # noqa: F401  declares htc_fast_triton::

__all__ = [
    "batched_nms",
    "batched_nms_padded",
    "encode_masks",
    "multi_level_roi_align",
    "nms",
    "paste_masks",
    "roi_align",
    "soft_nms",
    "use_backend",
]
