"""Cascade Mask R-CNN, whole, beside mmdetection's and detectron2's where they can be imported."""

import pytest

from benchmarks import detectors

NAMES = "cascade_mask_r50", "cascade_mask_r101", "cascade_mask_x101_64x4d"
THEIRS = {"cascade_mask_r50": "r50_fpn", "cascade_mask_r101": "r101_fpn", "cascade_mask_x101_64x4d": "x101-64x4d_fpn"}


@pytest.mark.parametrize(
    ("name", "mode", "dtype"), detectors.variants(*NAMES, modes=("optimized",)), indirect=["dtype"]
)
def bench_detect(compare, draw, name, mode, dtype):
    others = {"mmdetection": detectors.mmdetection(draw, f"cascade-mask-rcnn_{THEIRS[name]}_1x_coco")}
    if name == "cascade_mask_r50":
        others["detectron2"] = detectors.detectron2(draw, "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    detectors.run(compare, draw, name, mode, dtype, others=others)
