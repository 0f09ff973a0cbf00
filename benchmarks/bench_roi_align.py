"""RoIAlign of a pyramid and of one level, beside torchvision, mmcv, detectron2 and plain PyTorch."""

import pytest
import torch
import torchvision

from benchmarks import rivals
from benchmarks.cases import close, grid, plural
from htc_fast import ops
from tests.inputs import SCALES

COUNTS, SIZES, CHANNELS, IMAGES = (100, 512, 1000, 4000), (7, 14), (256, 64), (1, 8)
DTYPES = ("float32", "bfloat16", "float16")
FORWARD = [(1000, 7, 256, 1, "float32"), (1000, 7, 256, 1, "bfloat16"), (1000, 7, 256, 1, "float16"),
           (100, 14, 256, 1, "float32"), (100, 14, 256, 1, "bfloat16"), (512, 7, 64, 1, "float32")]  # fmt: skip
LOOP = 100  # RoIs that plain PyTorch's loop is waited for
SLOW = "plain PyTorch is a loop over boxes: not waited for"
BACKWARD = [(512, 7, 256, 1, "float32"), (512, 7, 256, 1, "bfloat16")]


def words(count: int, size: int, channels: int, images: int) -> str:
    """The usual channels and one image go without saying."""
    text = f"{count} RoIs to {size}×{size}"
    text += "" if channels == 256 else f", {channels} channels"
    return text + ("" if images == 1 else f", {plural(images, 'image')}")


def moved(features, out) -> float:
    """Gigabytes that must move: every map once, the output once."""
    return (sum(one.nbytes for one in features) + out.nbytes) / 1e9


def everyone(draw, features, rois, size) -> tuple[dict, dict]:
    """Ours with torchvision's convention, and whoever knows it, with maps in the layout that each reads.

    returns  who -> callable, who -> the maps it is given
    """
    theirs = [one.detach().contiguous().requires_grad_(one.requires_grad) for one in features]
    calls = {
        "htc_fast": lambda: ops.multi_level_roi_align(features, rois, size, SCALES, aligned=False),
        "torchvision": rivals.torchvision_pyramid(theirs, rois, size, draw.image),
        "mmcv": rivals.mmcv_pyramid(theirs, rois, size, SCALES),
        "detectron2": rivals.detectron2_pyramid(theirs, rois, size, SCALES),
    }
    plain = rivals.plain(lambda: ops.multi_level_roi_align(theirs, rois, size, SCALES, aligned=False))
    looped = len(rois) <= LOOP and not features[0].requires_grad
    calls["plain PyTorch"] = plain if looped else rivals.Absent(SLOW)
    return calls, {who: features if who == "htc_fast" else theirs for who in calls}


def as_defined(features, rois, call, tolerance):
    """A check of ours alone: a few RoIs and channels, forward and backward, beside the definition in plain PyTorch.

    call  features, rois -> result
    """

    def check(result):
        few = [one.detach()[:1, :8].float().requires_grad_() for one in features]
        some = rois[rois[:, 0] == 0][:12].detach()
        found, wanted = call(few, some), rivals.plain(lambda: call(few, some))()
        close(1e-3)(found, wanted, "the definition")
        seed = torch.linspace(-1, 1, found.numel(), device=found.device).reshape(found.shape)
        grads = [torch.autograd.grad(out, few, seed, allow_unused=True) for out in (found, wanted)]
        for mine, theirs in zip(*grads):
            if theirs is not None:
                close(1e-3, relative=True)(mine, theirs, "the definition's gradient")
        if result.shape[0] == len(rois) and result.dim() == 4 and result.shape[2:] == found.shape[2:]:
            at = int((rois[:, 0] == 0).nonzero()[0])
            close(tolerance)(result[at : at + len(some), :8], found, "its own few RoIs")

    return check


def checked(features, rois, size, tolerance):
    """mmcv and detectron2 shift by half a pixel: they are compared with ours that does."""
    same = close(tolerance)

    def check(ours, other, who):
        if who in ("mmcv", "detectron2"):
            ours = ops.multi_level_roi_align(features, rois, size, SCALES)
        same(ours, other, who)

    return check


@pytest.mark.parametrize(("count", "size", "channels", "images", "dtype"),
                         grid(FORWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES))  # fmt: skip
def bench_forward(compare, draw, count, size, channels, images, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(channels, images, dtype), draw.proposals(count, images)
    calls, _ = everyone(draw, features, rois, size)
    tolerance = 2e-3 if dtype == torch.float32 else 3e-2
    alone = lambda maps, boxes: ops.multi_level_roi_align(maps, boxes, size, SCALES, aligned=False)  # noqa: E731
    compare(f"forward, {words(count, size, channels, images)}", calls, checked(features, rois, size, tolerance),
            op="multi_level_roi_align", gigabytes=moved(features, calls["htc_fast"]()), dtype=dtype,
            verify=as_defined(features, rois, alone, tolerance))  # fmt: skip


@pytest.mark.parametrize(("count", "size", "channels", "images", "dtype"),
                         grid(BACKWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES))  # fmt: skip
def bench_backward(compare, draw, count, size, channels, images, dtype):
    dtype = getattr(torch, dtype)
    features = [one.requires_grad_() for one in draw.maps(channels, images, dtype)]
    rois = draw.proposals(count, images)
    calls, given = everyone(draw, features, rois, size)
    out = calls["htc_fast"]().detach()
    seed = draw.normal(*out.shape, dtype=dtype)

    def step(pool, leaves):
        if isinstance(pool, rivals.Absent):
            return pool
        # Rivals go through float32, as under autocast.
        return lambda: torch.autograd.grad(out := pool(), leaves, seed.to(out.dtype))[0]

    def check(ours, other, who):
        # Half a pixel apart, gradients land elsewhere; their sums do not.
        same = close(2e-2 if dtype == torch.float32 else 6e-2, relative=True)
        shifted = who in ("mmcv", "detectron2")
        same(ours.sum((2, 3)) if shifted else ours, other.sum((2, 3)) if shifted else other, who)

    calls = {who: step(pool, given[who]) for who, pool in calls.items()}
    alone = lambda maps, boxes: ops.multi_level_roi_align(maps, boxes, size, SCALES, aligned=False)  # noqa: E731
    compare(f"forward and backward, {words(count, size, channels, images)}", calls, check, op="multi_level_roi_align",
            gigabytes=2 * moved(features, out), dtype=dtype,
            verify=as_defined(features, rois, alone, 3e-2))  # fmt: skip


def bench_fused(compare, draw):
    features, rois = draw.maps(), draw.proposals(1000)
    semantic = draw.maps(seed=1)[1]

    def apart():
        own = ops.roi_align(semantic, rois, 14, 1 / 8, 0, True)
        return ops.multi_level_roi_align(features, rois, 7, SCALES) + torch.nn.functional.avg_pool2d(own, 2)

    fused = lambda: ops.multi_level_roi_align(features, rois, 7, SCALES, semantic=semantic)  # noqa: E731
    compare("forward with the semantic map, 1000 RoIs to 7×7", {"htc_fast": fused, "htc_fast, two launches": apart},
            close(2e-3), op="multi_level_roi_align", gigabytes=moved([*features, semantic], fused()))  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def bench_one_level(compare, draw, device, size):
    """Two samples per bin and axis, so that PyTorch's grid_sample can do it too."""
    feature, rois = draw.maps()[0], draw.proposals(512)
    plain = feature.contiguous()  # as the others lay it out
    sampled = lambda: rivals.grid_sample(plain, rois, size, SCALES[0])  # noqa: E731
    calls = {
        "htc_fast": lambda: ops.roi_align(feature, rois, size, SCALES[0], 2, True),
        "torchvision": lambda: torchvision.ops.roi_align(plain, rois, size, SCALES[0], 2, True),
        "mmcv": rivals.mmcv_level(plain, rois, size, SCALES[0], 2),
        "detectron2": rivals.detectron2_level(plain, rois, size, SCALES[0], 2),
        "PyTorch, grid_sample": sampled,
        "PyTorch, compiled": rivals.Absent("left out with --tiny") if draw.tiny else rivals.compiled(sampled, device),
    }
    compare(f"forward on one level, 512 RoIs to {size}×{size}, 2×2 samples", calls, close(2e-3), op="roi_align",
            gigabytes=moved([feature], calls["htc_fast"]()))  # fmt: skip
