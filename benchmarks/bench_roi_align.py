"""RoIAlign of a pyramid and of one level, beside torchvision, mmcv, detectron2 and plain PyTorch."""

import pytest
import torch
import torchvision

from benchmarks import rivals
from benchmarks.cases import close, grid, plural, select
from benchmarks.comparison import backend_name, forced, other_backends
from htc_fast import ops
from htc_fast.ops import _native
from tests.inputs import SCALES

COUNTS, SIZES, CHANNELS, IMAGES = (100, 512, 1000, 4000), (7, 14), (256, 64), (1, 8)
DTYPES = ("float32", "bfloat16", "float16")
FORWARD = [
    *((1000, 7, 256, 1, dtype) for dtype in DTYPES),
    *((100, 14, 256, 1, dtype) for dtype in DTYPES[:2]),
    (512, 7, 64, 1, "float32"),
]
BACKWARD = [(512, 7, 256, 1, "float32"), (512, 7, 256, 1, "bfloat16")]
QUICK = [(count, 7, 256, 1, dtype) for count in (1000, 512) for dtype in ("bfloat16", "float32")]
SEMANTIC = [(1000, 7, "bfloat16"), (100, 14, "bfloat16"), (512, 7, "bfloat16")]
GRADIENT = [(*case, True) for case in SEMANTIC] + [(count, size, dtype, False) for count, size, _, _, dtype in QUICK]
LOOP = 100  # RoIs that plain PyTorch's loop is waited for
SLOW = "plain PyTorch is a loop over boxes: not waited for"


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
    if draw.device.type == "cuda" and features[0].dtype != torch.float32:
        calls["torchvision, float16"] = rivals.torchvision_half(theirs, rois, size, SCALES)
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
    """mmcv and detectron2 shift by half a pixel: compared with ours that does.

    In half precision boxes are rounded, ours then too, and places on a map, to an eighth of a cell from 128 on, which
    moves a tenth of these maps' values, as they know no neighbours.
    """
    same = close(tolerance)

    def check(ours, other, who):
        if who in ("mmcv", "detectron2"):
            ours = ops.multi_level_roi_align(features, rois, size, SCALES)
        elif who == "torchvision, float16":
            ours = ops.multi_level_roi_align(features, rois.half().float(), size, SCALES, aligned=False)
            close(0.15, relative=True)(ours, other, who)
            return
        same(ours, other, who)

    return check


@pytest.mark.parametrize(
    ("count", "size", "channels", "images", "dtype"),
    grid(FORWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES, quick=QUICK),
)
def bench_forward(compare, draw, count, size, channels, images, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(channels, images, dtype), draw.proposals(count, images)
    calls, _ = everyone(draw, features, rois, size)
    tolerance = 2e-3 if dtype == torch.float32 else 3e-2
    alone = lambda maps, boxes: ops.multi_level_roi_align(maps, boxes, size, SCALES, aligned=False)  # noqa: E731
    options = {"dtype": dtype, "verify": as_defined(features, rois, alone, tolerance)}
    options |= {"op": "multi_level_roi_align", "gigabytes": moved(features, calls["htc_fast"]())}
    case = f"forward, {words(count, size, channels, images)}"
    compare(case, calls, checked(features, rois, size, tolerance), **options)


def gradient_alike(dtype: torch.dtype):
    """Half a pixel apart, gradients land elsewhere; their sums do not."""
    same = close(2e-2 if dtype == torch.float32 else 6e-2, relative=True)

    def check(ours, other, who):
        shifted = who in ("mmcv", "detectron2", "torchvision, float16")
        same(ours.sum((2, 3)) if shifted else ours, other.sum((2, 3)) if shifted else other, who)

    return check


@pytest.mark.parametrize(
    ("count", "size", "channels", "images", "dtype"), grid(BACKWARD, COUNTS, SIZES, CHANNELS, IMAGES, DTYPES)
)
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

    calls = {who: step(pool, given[who]) for who, pool in calls.items()}
    alone = lambda maps, boxes: ops.multi_level_roi_align(maps, boxes, size, SCALES, aligned=False)  # noqa: E731
    options = {"dtype": dtype, "verify": as_defined(features, rois, alone, 3e-2)}
    options |= {"op": "multi_level_roi_align", "gigabytes": 2 * moved(features, out)}
    case = f"forward and backward, {words(count, size, channels, images)}"
    compare(case, calls, gradient_alike(dtype), **options)


@pytest.mark.parametrize(("count", "size", "dtype", "fused"), select([], GRADIENT))
def bench_gradient(compare, draw, device, count, size, dtype, fused):
    """The gradient by itself, which gathers: deterministic. Beside it the design that adds atomically."""
    dtype = getattr(torch, dtype)
    maps, rois = [one.requires_grad_() for one in draw.maps(dtype=dtype)], draw.proposals(count)
    semantic = draw.maps(dtype=dtype, seed=1)[1].requires_grad_() if fused else None
    leaves = [*maps, semantic] if fused else maps
    pool = lambda: ops.multi_level_roi_align(maps, rois, size, SCALES, aligned=False, semantic=semantic)  # noqa: E731
    seed = draw.normal(len(rois), maps[0].shape[1], size, size, dtype=dtype)

    def gradient(pool, leaves):
        if isinstance(pool, rivals.Absent):
            return pool
        out = pool()  # its backend is its gradient's
        return lambda: torch.autograd.grad(out, leaves, seed.to(out.dtype), retain_graph=True)[0]

    calls, op = {"htc_fast": gradient(pool, leaves)}, "multi_level_roi_align"
    for name in other_backends(op, device):
        calls[f"htc_fast, {name}"] = gradient(forced(pool, name), leaves)
    calls["htc_fast, atomic"] = scattered(seed, rois, leaves, fused)
    if not fused:
        others, given = everyone(draw, maps, rois, size)
        theirs = {who: one for who, one in others.items() if who.startswith("torchvision")}
        calls |= {who: gradient(one, given[who]) for who, one in theirs.items()}
    case = f"backward{' with the semantic map' * fused}, {words(count, size, 256, 1)}"
    options = {"dtype": dtype, "gigabytes": moved(leaves, seed), "backend": backend_name(op, device)}
    compare(case, calls, gradient_alike(dtype), **options)


def scattered(seed, rois, leaves, fused: bool):
    """The gradient by atomic adds; in CUDA alone."""
    if "htc_fast::multi_level_roi_align_backward" not in _native.cuda_operators or seed.device.type != "cuda":
        return rivals.Absent("in CUDA alone")
    sizes = [1, *(side for one in leaves for side in one.shape[2:])]
    given = seed, rois, sizes, SCALES, 0, False, 56.0, fused, 0.125, 14
    return lambda: torch.ops.htc_fast.multi_level_roi_align_backward(*given, deterministic=False)[0]


@pytest.mark.parametrize(("count", "size", "dtype"), select([(1000, 7, "float32")], SEMANTIC))
def bench_fused(compare, draw, count, size, dtype):
    dtype = getattr(torch, dtype)
    features, rois = draw.maps(dtype=dtype), draw.proposals(count)
    semantic = draw.maps(dtype=dtype, seed=1)[1]

    def apart():
        own = ops.roi_align(semantic, rois, 14, 1 / 8, 0, True, channels_last=True)
        own = own if size == 14 else torch.nn.functional.avg_pool2d(own, 14 // size)
        return ops.multi_level_roi_align(features, rois, size, SCALES) + own

    fused = lambda: ops.multi_level_roi_align(features, rois, size, SCALES, semantic=semantic)  # noqa: E731
    case = f"forward with the semantic map, {words(count, size, 256, 1)}"
    options = {"dtype": dtype, "gigabytes": moved([*features, semantic], fused())}
    same = close(2e-3 if dtype == torch.float32 else 5e-2)  # the sum of two that were rounded
    compare(case, {"htc_fast": fused, "htc_fast, two launches": apart}, same, op="multi_level_roi_align", **options)


@pytest.mark.parametrize("size", SIZES)
def bench_one_level(compare, draw, size):
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
        "PyTorch, compiled": rivals.compiled(sampled, draw),
    }
    case = f"forward on one level, 512 RoIs to {size}×{size}, 2×2 samples"
    compare(case, calls, close(2e-3), op="roi_align", gigabytes=moved([feature], calls["htc_fast"]()))
