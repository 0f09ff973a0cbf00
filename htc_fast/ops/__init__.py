"""The operators: drop-in functions for two-stage detectors, in C++, CUDA and Triton."""

from htc_fast.ops._backend import use_backend
from htc_fast.ops.conv3x3_relu import conv3x3_relu
from htc_fast.ops.decode import decode
from htc_fast.ops.detections import detections
from htc_fast.ops.encode import encode
from htc_fast.ops.encode_logits import encode_logits
from htc_fast.ops.encode_masks import encode_masks
from htc_fast.ops.encode_prototypes import encode_prototypes
from htc_fast.ops.mask_branch import MaskHeadWeights, mask_branch, mask_head_weights
from htc_fast.ops.mask_flow import mask_flow
from htc_fast.ops.mask_iou import mask_iou
from htc_fast.ops.mask_nms import mask_nms
from htc_fast.ops.mask_predict import mask_predict
from htc_fast.ops.mask_targets import mask_targets
from htc_fast.ops.matrix_nms import matrix_nms
from htc_fast.ops.merge_tiles import MergedTiles, merge_tiles
from htc_fast.ops.nms import batched_nms, batched_nms_padded, nms
from htc_fast.ops.paste_masks import paste_masks
from htc_fast.ops.pr_roi_pool import pr_roi_pool
from htc_fast.ops.propose import propose
from htc_fast.ops.rasterize import rasterize, rasterize_in_boxes
from htc_fast.ops.refine import refine
from htc_fast.ops.rle import merge, rle_area, rle_to_box
from htc_fast.ops.rle_to_polygons import rle_to_polygons
from htc_fast.ops.roi_align import multi_level_roi_align, roi_align
from htc_fast.ops.semantic_merge import semantic_merge
from htc_fast.ops.soft_nms import soft_nms, soft_nms_padded
from htc_fast.ops.transform_rles import crop, flip, resize, shift

__all__ = [
    "MaskHeadWeights",
    "MergedTiles",
    "batched_nms",
    "batched_nms_padded",
    "conv3x3_relu",
    "crop",
    "decode",
    "detections",
    "encode",
    "encode_logits",
    "encode_masks",
    "encode_prototypes",
    "flip",
    "mask_branch",
    "mask_flow",
    "mask_head_weights",
    "mask_iou",
    "mask_nms",
    "mask_predict",
    "mask_targets",
    "matrix_nms",
    "merge",
    "merge_tiles",
    "multi_level_roi_align",
    "nms",
    "paste_masks",
    "pr_roi_pool",
    "propose",
    "rasterize",
    "rasterize_in_boxes",
    "refine",
    "resize",
    "rle_area",
    "rle_to_box",
    "rle_to_polygons",
    "roi_align",
    "semantic_merge",
    "shift",
    "soft_nms",
    "soft_nms_padded",
    "use_backend",
]
