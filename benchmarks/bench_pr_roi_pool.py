"""Precise RoI pooling beside plain PyTorch; mmcv's is for a GPU and one level."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_roi_align import CHANNELS, COUNTS, DTYPES, IMAGES, LOOP, SIZES, SLOW, as_defined, moved, words
from benchmarks.cases import close, grid, select
from htc_fast import ops
from tests.inputs import SCALES

FORWARD = [(1000, 7, 256, 1, "float32"), (1000, 7, 256, 1, "bfloat16"), (100, 14, 256, 1, "float32")]
QUICK = [(1000, 7, "bfloat16"), (100, 14, "bfloat16"), (1000, 7, "float32")]
ALL_QUICK = [(count, size, 256, 1, dtype) for count, size, dtype in QUICK]
BACKWARD = [("maps", 512, 7, "float32"), ("boxes", 512, 7, "float32")]


@pytest.mark.parametrize(
    ("count", "size", "channels", "images", "dtype"),
    grid(FORWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES, quick=ALL_QUICK),
)
def bench_forward(compare, draw, count, size, channels, images, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(channels, images, dtype), draw.proposals(count, images)
    alone = lambda maps, boxes: ops.pr_roi_pool(maps, boxes, size, SCALES)  # noqa: E731
    call = lambda: alone(features, rois)  # noqa: E731
    calls = {"htc_fast": call, "plain PyTorch": rivals.plain(call) if count <= LOOP else rivals.Absent(SLOW)}
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    options = {"gigabytes": moved(features, call()), "verify": as_defined(features, rois, alone, tolerance)}
    case = f"forward, {words(count, size, channels, images)}"
    compare(case, calls, close(tolerance), op="pr_roi_pool", dtype=dtype, **options)


def bench_one_level(compare, draw, device):
    feature, rois = draw.maps()[:1], draw.proposals(100)
    call = lambda: ops.pr_roi_pool(feature, rois, 7, SCALES[:1], aligned=False)  # noqa: E731
    mmcv = rivals.mmcv_pr_roi_pool(feature[0], rois, 7, SCALES[0])
    if device.type == "cpu" and not isinstance(mmcv, rivals.Absent):
        mmcv = rivals.Absent("has no CPU kernel")
    calls = {"htc_fast": call, "mmcv": mmcv, "plain PyTorch": rivals.plain(call)}
    case = "forward on one level, 100 RoIs to 7×7"
    compare(case, calls, close(1e-3), op="pr_roi_pool", gigabytes=moved(feature, call()))


@pytest.mark.parametrize(
    ("to", "count", "size", "dtype"), select(BACKWARD, [(to, *case) for to in ("maps", "boxes") for case in QUICK])
)
def bench_backward(compare, draw, to, count, size, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(dtype=dtype), draw.proposals(count)
    leaves = [one.requires_grad_() for one in features] if to == "maps" else [rois.requires_grad_()]
    alone = lambda maps, boxes: ops.pr_roi_pool(maps, boxes, size, SCALES)  # noqa: E731

    def step():
        out = alone(features, rois)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))[0]

    calls = {"htc_fast": step, "plain PyTorch": rivals.Absent(SLOW)}
    verify = as_defined(features, rois, alone, 1e-3) if to == "maps" else boxes_as_defined(features, rois, alone)
    case = f"forward and backward to the {to}, {words(count, size, 256, 1)}"
    compare(case, calls, close(1e-3, relative=True), op="pr_roi_pool", dtype=dtype, verify=verify)


def boxes_as_defined(features, rois, call):
    """A check of the gradient to a few boxes, in float32, beside that of the definition."""

    def check(result):
        few, some = [one.detach()[:, :8].float() for one in features], rois.detach()[:12].requires_grad_()
        step = lambda: torch.autograd.grad(call(few, some).square().sum(), some)[0]  # noqa: E731
        close(1e-2, relative=True)(step(), rivals.plain(step)(), "the definition's gradient")

    return check
