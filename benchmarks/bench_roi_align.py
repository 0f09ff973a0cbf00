"""Multi-level RoIAlign beside torchvision's MultiScaleRoIAlign and our reference in plain PyTorch."""

import importlib.util

import pytest
import torch
import torchvision
from torchvision.ops import MultiScaleRoIAlign

from htc_fast import ops
from tests.inputs import IMAGE, SCALES, maps, proposals

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def mmcv(feature, rois, size):
    """mmcv's, on one level: it has none for a pyramid; None where it is not installed."""
    if importlib.util.find_spec("mmcv") is None:
        return None
    from mmcv.ops import roi_align

    return lambda: roi_align(feature, rois, size, SCALES[0], 0, "avg", True)


def rival(features, rois, size):
    """torchvision's, with its own level rule and no half-pixel shift; None where it does not take the type."""
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 0)
    named = {str(i): one for i, one in enumerate(features)}
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(len(features[0]))]
    return lambda: pool(named, boxes, [IMAGE] * len(boxes))


def moved(features, out) -> float:
    """Gigabytes that must move: every map once, the output once."""
    return (sum(one.nbytes for one in features) + out.nbytes) / 1e9


def close(ours, other, who):
    torch.testing.assert_close(ours.float(), other.float(), rtol=2e-3, atol=2e-3, msg=f"differs from {who}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "size"), [(1000, 7), (100, 14), (100, 7), (512, 7), (512, 14), (4000, 7)])
def bench_forward(compare, request, count, size, dtype):
    if (count, size) not in ((1000, 7), (100, 14)) and not request.config.getoption("--full"):
        pytest.skip("only with --full")
    features, rois = maps(dtype=DTYPES[dtype]), proposals(count)
    call = lambda: ops.multi_level_roi_align(features, rois, size, SCALES, aligned=False)  # noqa: E731
    calls = {"htc_fast": call, "torchvision": rival(features, rois, size) if dtype == "float32" else None}
    compare("roi_align", f"forward, {count} RoIs to {size}×{size}", calls, close, moved(features, call()), dtype=dtype)


@pytest.mark.parametrize(("channels", "images"), [(64, 1), (256, 8)])
def bench_other_shapes(compare, channels, images):
    features, rois = maps(channels, images), proposals(512, images)
    call = lambda: ops.multi_level_roi_align(features, rois, 7, SCALES, aligned=False)  # noqa: E731
    calls = {"htc_fast": call, "torchvision": rival(features, rois, 7)}
    words = f"forward, 512 RoIs to 7×7, {channels} channels, {images} image{'s' * (images > 1)}"
    # torchvision gives RoIs of several images in another order.
    compare("roi_align", words, calls, close if images == 1 else None, moved(features, call()))


def bench_one_level(compare):
    feature, rois = maps()[0], proposals(512)
    call = lambda: ops.roi_align(feature, rois, 7, SCALES[0], 0, True)  # noqa: E731
    plain = feature.contiguous()
    calls = {"htc_fast": call, "torchvision": lambda: torchvision.ops.roi_align(plain, rois, 7, SCALES[0], 0, True),
             "mmcv": mmcv(plain, rois, 7)}  # fmt: skip
    compare("roi_align", "forward on one level, 512 RoIs to 7×7", calls, close, moved([feature], call()))


def bench_fused(compare):
    features, rois = maps(), proposals(1000)
    semantic = maps(seed=1)[1]
    plain = lambda: ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic)  # noqa: E731

    def apart():
        own = ops.roi_align(semantic, rois, 14, 1 / 8, 0, True)
        return ops.multi_level_roi_align(features, rois, 7, SCALES) + torch.nn.functional.avg_pool2d(own, 2)

    calls = {"htc_fast": plain, "htc_fast, two launches": apart}
    compare("roi_align", "forward with the semantic map, 1000 RoIs to 7×7", calls, close, moved(features, plain()))


def bench_backward(compare):
    features, rois = [one.requires_grad_() for one in maps()], proposals(512)

    def step(pool):
        def run():
            out = pool()
            return torch.autograd.grad(out, features, torch.ones_like(out))[0]

        return run

    ours = step(lambda: ops.multi_level_roi_align(features, rois, 7, SCALES, aligned=False))
    calls = {"htc_fast": ours, "torchvision": step(rival(features, rois, 7))}
    compare("roi_align", "forward and backward, 512 RoIs to 7×7", calls, close)
