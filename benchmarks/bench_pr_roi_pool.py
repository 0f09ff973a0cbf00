"""Precise RoI pooling beside plain PyTorch; mmcv's is for a GPU and one level."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_roi_align import (
    CHANNELS,
    COUNTS,
    DTYPES,
    IMAGES,
    LOOP,
    SIZES,
    SLOW,
    as_defined,
    moved,
    words,
)
from benchmarks.cases import close, grid
from htc_fast import ops
from tests.inputs import SCALES

FORWARD = [(1000, 7, 256, 1, "float32"), (1000, 7, 256, 1, "bfloat16"), (100, 14, 256, 1, "float32")]


@pytest.mark.parametrize(("count", "size", "channels", "images", "dtype"),
                         grid(FORWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES))  # fmt: skip
def bench_forward(compare, draw, count, size, channels, images, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(channels, images, dtype), draw.proposals(count, images)
    call = lambda: ops.pr_roi_pool(features, rois, size, SCALES)  # noqa: E731
    calls = {"htc_fast": call, "plain PyTorch": rivals.plain(call) if count <= LOOP else rivals.Absent(SLOW)}
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    alone = lambda maps, boxes: ops.pr_roi_pool(maps, boxes, size, SCALES)  # noqa: E731
    compare(f"forward, {words(count, size, channels, images)}", calls, close(tolerance), op="pr_roi_pool",
            gigabytes=moved(features, call()), dtype=dtype,
            verify=as_defined(features, rois, alone, tolerance))  # fmt: skip


def bench_one_level(compare, draw, device):
    feature, rois = draw.maps()[:1], draw.proposals(100)
    call = lambda: ops.pr_roi_pool(feature, rois, 7, SCALES[:1], aligned=False)  # noqa: E731
    mmcv = rivals.mmcv_pr_roi_pool(feature[0], rois, 7, SCALES[0])
    if device.type == "cpu" and not isinstance(mmcv, rivals.Absent):
        mmcv = rivals.Absent("has no CPU kernel")
    calls = {"htc_fast": call, "mmcv": mmcv, "plain PyTorch": rivals.plain(call)}
    compare("forward on one level, 100 RoIs to 7×7", calls, close(1e-3), op="pr_roi_pool",
            gigabytes=moved(feature, call()))  # fmt: skip


@pytest.mark.parametrize("to", ["maps", "boxes"])
def bench_backward(compare, draw, to):
    features, rois = draw.maps(), draw.proposals(512)
    leaves = [one.requires_grad_() for one in features] if to == "maps" else [rois.requires_grad_()]

    def step():
        out = ops.pr_roi_pool(features, rois, 7, SCALES)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))[0]

    calls = {"htc_fast": step, "plain PyTorch": rivals.Absent(SLOW)}
    alone = lambda maps, boxes: ops.pr_roi_pool(maps, boxes, 7, SCALES)  # noqa: E731
    verify = as_defined(features, rois, alone, 1e-3) if to == "maps" else boxes_as_defined(features, rois)
    compare(f"forward and backward to the {to}, 512 RoIs to 7×7", calls, close(1e-3, relative=True), op="pr_roi_pool",
            verify=verify)  # fmt: skip


def boxes_as_defined(features, rois):
    """A check of the gradient to a few boxes, beside that of the definition."""

    def check(result):
        few, some = [one.detach()[:, :8] for one in features], rois.detach()[:12].requires_grad_()
        step = lambda: torch.autograd.grad(ops.pr_roi_pool(few, some, 7, SCALES).square().sum(), some)[0]  # noqa: E731
        close(1e-2, relative=True)(step(), rivals.plain(step)(), "the definition's gradient")

    return check
