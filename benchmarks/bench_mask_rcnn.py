"""Mask R-CNN, whole, beside torchvision's, mmdetection's and detectron2's."""

import pytest

from benchmarks import detectors

NAMES = "mask_rcnn_r50", "mask_rcnn_r101", "mask_rcnn_x101_64x4d"


@pytest.mark.parametrize(
    ("name", "mode", "dtype"), detectors.variants(*NAMES, modes=("optimized",)), indirect=["dtype"]
)
def bench_detect(compare, draw, name, mode, dtype):
    others = {}
    # Rivals once per dtype: they do not depend on our mode.
    if name == "mask_rcnn_r50" and mode == "optimized":
        others = {
            "torchvision": detectors.torchvision_mask_rcnn(draw, dtype),
            "mmdetection": detectors.mmdetection(draw, "mask-rcnn_r50_fpn_1x_coco"),
            "detectron2": detectors.detectron2(draw, "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        }
    detectors.run(compare, draw, name, mode, dtype, others=others)
