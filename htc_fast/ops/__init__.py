"""The operators: drop-in functions for two-stage detectors, in C++, CUDA and Triton."""

from htc_fast.ops._backend import use_backend
from htc_fast.ops.conv3x3_relu import conv3x3_relu
from htc_fast.ops.detections import detections
from htc_fast.ops.encode_masks import encode_masks
from htc_fast.ops.mask_branch import MaskHeadWeights, mask_branch, mask_head_weights
from htc_fast.ops.mask_flow import mask_flow
from htc_fast.ops.mask_predict import mask_predict
from htc_fast.ops.mask_targets import mask_targets
from htc_fast.ops.nms import batched_nms, batched_nms_padded, nms
from htc_fast.ops.paste_masks import paste_masks
from htc_fast.ops.pr_roi_pool import pr_roi_pool
from htc_fast.ops.propose import propose
from htc_fast.ops.refine import refine
from htc_fast.ops.roi_align import multi_level_roi_align, roi_align
from htc_fast.ops.semantic_merge import semantic_merge
from htc_fast.ops.soft_nms import soft_nms, soft_nms_padded

__all__ = [
    "MaskHeadWeights",
    "batched_nms",
    "batched_nms_padded",
    "conv3x3_relu",
    "detections",
    "encode_masks",
    "mask_branch",
    "mask_flow",
    "mask_head_weights",
    "mask_predict",
    "mask_targets",
    "multi_level_roi_align",
    "nms",
    "paste_masks",
    "pr_roi_pool",
    "propose",
    "refine",
    "roi_align",
    "semantic_merge",
    "soft_nms",
    "soft_nms_padded",
    "use_backend",
]
