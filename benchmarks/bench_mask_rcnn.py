"""Mask R-CNN, whole, beside torchvision's, mmdetection's and detectron2's."""

import pytest

from benchmarks import detectors, networks

NAMES = "mask_rcnn_r50", "mask_rcnn_r101", "mask_rcnn_x101_64x4d"
CASES = detectors.variants(*NAMES, modes=("optimized",), quick=True)


@pytest.mark.parametrize(("name", "mode", "dtype"), CASES, indirect=["dtype"])
def bench_detect(compare, draw, name, mode, dtype):
    others = {}
    # Rivals once per dtype: they do not depend on our mode.
    if name == "mask_rcnn_r50" and mode == "optimized":
        others = {
            "torchvision": networks.torchvision_mask_rcnn(draw, dtype),
            "mmdetection": networks.mmdetection(draw, "mask-rcnn_r50_fpn_1x_coco"),
            "detectron2": networks.detectron2(draw, "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"),
        }
    detectors.run(compare, draw, name, mode, dtype, others=others)
