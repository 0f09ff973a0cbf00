"""Cascade Mask R-CNN, whole, beside mmdetection's and detectron2's where they can be imported."""

import pytest

from benchmarks import detectors, networks

THEIRS = {"cascade_mask_r50": "r50_fpn", "cascade_mask_r101": "r101_fpn", "cascade_mask_x101_64x4d": "x101-64x4d_fpn"}
CASES = detectors.variants(*THEIRS, modes=("optimized",))


@pytest.mark.parametrize(("name", "mode", "dtype"), CASES, indirect=["dtype"])
def bench_detect(compare, draw, name, mode, dtype):
    others = {"mmdetection": networks.mmdetection(draw, f"cascade-mask-rcnn_{THEIRS[name]}_1x_coco")}
    if name == "cascade_mask_r50":
        others["detectron2"] = networks.detectron2(draw, "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    detectors.run(compare, draw, name, mode, dtype, others=others)
