"""Hybrid Task Cascade, whole, beside mmdetection's where it can be imported."""

import pytest

from benchmarks import detectors

THEIRS = {"htc_r50": "htc_r50_fpn_1x_coco", "htc_r101": "htc_r101_fpn_20e_coco",
          "htc_x101_64x4d": "htc_x101-64x4d_fpn_16xb1-20e_coco"}  # fmt: skip


@pytest.mark.parametrize(("name", "mode", "dtype"), detectors.variants(*THEIRS),
                         indirect=["dtype"])  # fmt: skip
def bench_detect(compare, draw, name, mode, dtype):
    others = {"mmdetection": detectors.mmdetection(draw, THEIRS[name])}
    detectors.run(compare, draw, name, mode, dtype, others=others)


@pytest.mark.full
@pytest.mark.parametrize("mode", detectors.MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"], indirect=True)
def bench_eight(compare, draw, mode, dtype):
    detectors.run(compare, draw, "htc_r50", mode, dtype, images=8)
