"""Hybrid Task Cascade, whole, beside mmdetection's where it can be imported; and all of predicting with it."""

import pytest
import torch

from benchmarks import detectors, networks
from benchmarks.cases import select

THEIRS = {
    "htc_r50": "htc_r50_fpn_1x_coco",
    "htc_r101": "htc_r101_fpn_20e_coco",
    "htc_x101_64x4d": "htc_x101-64x4d_fpn_16xb1-20e_coco",
}
EIGHT = [(mode, dtype) for mode in detectors.MODES for dtype in ("float32", "bfloat16")]
MODES = [("eager", "bfloat16"), *(("optimized", dtype) for dtype in ("bfloat16", "float16", "float32"))]
PREDICT = [(*mode, batch) for batch in (1, 8) for mode in MODES]
PREDICT.append((f"optimized{detectors.CUDNN}", "bfloat16", 1))


@pytest.mark.parametrize(("name", "mode", "dtype"), detectors.variants(*THEIRS, quick=True), indirect=["dtype"])
def bench_detect(compare, draw, name, mode, dtype):
    others = {"mmdetection": networks.mmdetection(draw, THEIRS[name])}
    detectors.run(compare, draw, name, mode, dtype, others=others)


@pytest.mark.parametrize(("mode", "dtype"), select([], [("optimized", "bfloat16")], EIGHT), indirect=["dtype"])
def bench_eight(compare, draw, mode, dtype):
    detectors.run(compare, draw, "htc_r50", mode, dtype, images=8)


@pytest.mark.parametrize(("mode", "dtype", "batch"), select([], PREDICT), indirect=["dtype"])
def bench_predict(compare, draw, mode, dtype, batch, monkeypatch):
    """Beside torchvision's Mask R-CNN, a smaller network, with its paste and pycocotools' encoding."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", mode.endswith(detectors.CUDNN))

    def others(pixels, batch, count):
        if (mode, dtype) != ("optimized", torch.bfloat16):
            return {}
        names = {"torchvision, Mask R-CNN": networks.V1, "torchvision, Mask R-CNN v2": networks.V2}
        make = networks.torchvision_predict
        return {who: make(draw, version, dtype, pixels, batch, count) for who, version in names.items()}

    detectors.predict(compare, draw, "htc_r50", mode, dtype, batch, others)
