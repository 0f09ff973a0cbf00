"""RoIAlign on one map or on a whole pyramid: every RoI's features in one call, in channels-last memory.

Which level a RoI reads, where its samples lie and what they weigh is decided in float32 inside the kernel; feature
maps are read as they are, in 16 bits too, and summed in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._jit_internal import BroadcastingList2  # type: ignore[attr-defined]

from htc_fast.errors import MOST, ShapeError, short
from htc_fast.ops import _backend
from htc_fast.ops._arguments import check_device, check_floats, check_tensor, flag, integer, items, positive, real
from htc_fast.ops._declare import declare, maps_like
from htc_fast.ops._shared_maps import added
from htc_fast.ops.reference import roi_align as reference

MOST_BINS = MOST_SAMPLES = 2**15  # of an axis: their squares are numbers that kernels count with
for _name in ("roi_align", "multi_level_roi_align"):
    _backend.register(_name, "cpp", "cuda", "triton")


def roi_align(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """Average each box's bilinear samples into a grid of bins.

    input           [N, C, H, W]
    boxes           [K, 5]  image number, x1, y1, x2, y2; or a list of at most N tensors [L, 4], the first image's first
    output_size     h, w of the grid, or one number for both
    spatial_scale   pixels of `input` per pixel of the boxes
    sampling_ratio  samples per bin and axis; <= 0: one per pixel that the bin spans
    aligned         shift by half a pixel (right), or not (as RoIAlign first had it)
    channels_last   leave the result in channels-last memory, as the kernel writes it, instead of turning it
    returns         [K, C, h, w]  of the input's dtype, contiguous; zeros for boxes that are not finite
    raises          ValueError (ShapeError for boxes), TypeError; RuntimeError for an image number out of range (on the
                    CPU)
    source          Mask R-CNN, section 3; torchvision's signature and results; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        rois = boxes if isinstance(boxes, Tensor) else _numbered(boxes)
        height, width = output_size[0], output_size[1]
        out = torch.ops.htc_fast.multi_level_roi_align(
            [input], rois.detach(), height, width, [spatial_scale], sampling_ratio, aligned, 1.0, None, 1.0, 1
        )
        return out if channels_last else turned(out)
    else:
        return _roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, channels_last)


def _roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, channels_last) -> Tensor:
    if not isinstance(boxes, Tensor):
        boxes = with_numbers(boxes, input)
    size, rois, spatial_scale = grid_size(output_size), boxes, positive("spatial_scale", spatial_scale)
    check_inputs([input], rois, [spatial_scale], None)
    sampling_ratio, aligned = samples("sampling_ratio", sampling_ratio), flag("aligned", aligned)
    backend = _backend.backend_for("roi_align", input)
    if backend == "reference":
        out = reference.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned)
    else:
        out = _call(backend, [input], rois, size, [spatial_scale], sampling_ratio, aligned, 1.0, None, 1.0, 1)
    return out if flag("channels_last", channels_last) else turned(out)


def turned(out: Tensor) -> Tensor:
    """[K, C, h, w] in channels-last memory -> contiguous, as matrices, for which torch is four times as fast."""
    count, channels, height, width = out.shape
    matrices = out.permute(0, 2, 3, 1).reshape(count, height * width, channels)
    return matrices.transpose(1, 2).contiguous().view(count, channels, height, width)


def multi_level_roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    *,
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = 224,
    canonical_level: int = 4,
    semantic: Tensor | None = None,
    semantic_scale: float = 1 / 8,
    semantic_grid: int = 14,
) -> Tensor:
    """RoIAlign where every RoI reads the pyramid level that fits its size, and may add a semantic map's features.

    features         L tensors [N, C, H_l, W_l], finest first
    rois             [K, 5]  image number, x1, y1, x2, y2 in pixels; or [N, R, 4]
    output_size      h, w
    spatial_scales   L numbers, such as 1/4, 1/8, 1/16, 1/32
    sampling_ratio   samples per bin and axis; <= 0: one per pixel that the bin spans
    canonical_size   boxes of this side (pixels) read level `canonical_level`, scale 2 ** -canonical_level
    semantic         [N, C, H, W] or None: its RoIAlign on a semantic_grid x semantic_grid grid, averaged to h, w,
                     is added
    returns          [K, C, h, w] or [N * R, C, h, w], channels-last in memory; zeros for boxes that are not finite
    raises           ValueError, TypeError; RuntimeError for an image number out of range (on the CPU)
    source           FPN, equation 1 for the level; HTC, equation 6 for the sum
    """
    features, scales, size = items("features", features), scales_of(spatial_scales), grid_size(output_size)
    check_inputs(features, rois, scales, semantic)
    sampling_ratio, aligned = samples("sampling_ratio", sampling_ratio), flag("aligned", aligned)
    semantic_scale = positive("semantic_scale", semantic_scale)
    semantic_grid = integer("semantic_grid", semantic_grid, 1, MOST_BINS)
    finest_size = finest_of(canonical_size, canonical_level, scales)
    backend = _backend.backend_for("multi_level_roi_align", features[0])
    arguments = sampling_ratio, aligned, finest_size, semantic, semantic_scale, semantic_grid
    if backend == "reference":
        return reference.multi_level_roi_align(features, rois, size, scales, *arguments)
    return _call(backend, features, rois, size, scales, *arguments)


def _call(backend, features, rois, size, scales, *arguments) -> Tensor:
    _backend.refuse_tangents("RoIAlign", *features, arguments[3])
    operator = _backend.library(backend).multi_level_roi_align
    return operator(features, rois.detach(), *size, scales, *arguments)


def with_numbers(boxes: Sequence[Tensor], like: Tensor) -> Tensor:
    """One tensor [L, 4] per image of `like` [N, C, H, W], or for the first of them -> [K, 5].

    raises  ValueError, TypeError
    """
    check_tensor("input", like)
    boxes = items("boxes", boxes)
    if like.dim() != 4 or len(boxes) > len(like):
        raise ShapeError(
            f"boxes must be at most one tensor per image of an input [N, C, H, W], got {len(boxes)} for "
            f"{list(like.shape)}."
        )
    for number, one in enumerate(boxes):
        check_tensor(f"boxes[{number}]", one)
        if one.dim() != 2 or one.shape[1] != 4:
            raise ShapeError(f"boxes must be a list of [L, 4], got {list(one.shape)}.")
    return _numbered(boxes) if boxes else like.new_zeros(0, 5)


def _numbered(boxes: list[Tensor]) -> Tensor:
    """The image's number before each box; a traced program takes other numbers of boxes than it was traced with."""
    numbers = [torch.full_like(one[:, :1], float(number)) for number, one in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(boxes)], dim=1)


def samples(name: str, value: Any) -> int:
    """Samples per bin and axis; 2.0 is taken for 2.

    raises  TypeError, ValueError
    """
    whole = isinstance(value, float) and value.is_integer()
    return integer(name, int(value) if whole else value, -MOST, MOST_SAMPLES)


def grid_size(output_size: int | tuple[int, int]) -> tuple[int, int]:
    """output_size as (h, w).

    raises  ValueError
    """
    single = isinstance(output_size, (int, torch.SymInt)) or not hasattr(output_size, "__len__")
    try:
        if single or getattr(output_size, "ndim", 1) == 0:
            height = width = integer("a side", output_size, 1, MOST_BINS)
        else:
            height, width = [integer("a side", side, 1, MOST_BINS) for side in items("output_size", output_size)]
    except (TypeError, ValueError):
        raise ValueError(
            f"output_size must be one or two positive integers up to {MOST_BINS}, got {short(output_size)}."
        ) from None
    return height, width


def scales_of(spatial_scales: Sequence[float]) -> list[float]:
    """The levels' scales as numbers.

    raises  ValueError, TypeError
    """
    return [positive("a spatial scale", scale) for scale in items("spatial_scales", spatial_scales)]


def finest_of(size: float, level: int, scales: list[float]) -> float:
    """Side in pixels of the boxes from which on the finest level is read, those of `size` reading `level`.

    raises  ValueError, TypeError
    """
    level = real("canonical_level", level)  # type: ignore[assignment]
    if abs(level) > 64:
        raise ValueError(f"canonical_level must be a level's number, got {level}.")
    return positive("canonical_size", size) / (2.0**level * scales[0])


def check_inputs(features: list[Tensor], rois: Tensor, scales: list[float], semantic: Tensor | None) -> None:
    """What both poolings ask of their arguments.

    raises  ValueError, TypeError
    """
    if not 1 <= len(features) <= 8:
        raise ValueError(f"expected 1 to 8 feature levels, got {len(features)}.")
    if len(scales) != len(features):
        raise ValueError(f"expected one spatial scale per level, got {len(scales)} for {len(features)} levels.")
    first = features[0]
    check_tensor("level 0", first)
    check_tensor("rois", rois)
    check_floats("feature maps", first)
    check_floats("rois", rois)
    maps = [(f"level {i}", one) for i, one in enumerate(features)]
    for name, found in maps if semantic is None else [*maps, ("semantic", semantic)]:
        check_tensor(name, found)
        if found.dim() != 4 or first.dim() != 4 or found.shape[:2] != first.shape[:2]:
            beside = "" if found is first else f" with level 0's N and C, {list(first.shape[:2])}"
            raise ValueError(f"{name} must be [N, C, H, W]{beside}, got {list(found.shape)}.")
        if found.dtype != first.dtype:
            raise TypeError(f"{name} must be {first.dtype} like level 0, got {found.dtype}.")
        check_device(name, found, "the rois", rois)
    if not ((rois.dim() == 2 and rois.shape[1] == 5) or (rois.dim() == 3 and rois.shape[2] == 4)):
        raise ShapeError(f"rois must be [K, 5] (image number first) or [N, R, 4], got {list(rois.shape)}.")
    if rois.dim() == 3 and rois.shape[0] != first.shape[0]:
        raise ShapeError(f"rois [N, R, 4] must have one row per image, got {rois.shape[0]} for {first.shape[0]}.")


def _fake(features, rois, out_h, out_w, *options):
    return maps_like(features[0], rois.numel() // rois.shape[-1], features[0].shape[1], out_h, out_w)


def _fake_backward(grad, rois, sizes, *options, **_):
    return [maps_like(grad, sizes[0], grad.shape[1], *side) for side in zip(sizes[1::2], sizes[2::2])]


def _setup_context(ctx, inputs, output) -> None:
    features, rois, _, _, *ctx.options = inputs
    semantic = ctx.options[4]
    maps = [*features, *([] if semantic is None else [semantic])]
    ctx.options[4] = semantic is not None
    ctx.sizes = [maps[0].shape[0], *(side for one in maps for side in one.shape[2:])]
    ctx.levels = len(features)
    ctx.save_for_backward(rois)


def _backward(library, ctx, grad):
    (rois,) = ctx.saved_tensors
    if library is torch.ops.htc_fast and added(ctx, grad, rois):
        return [None] * ctx.levels, *[None] * 10
    grads = library.multi_level_roi_align_backward(grad, rois, ctx.sizes, *ctx.options, True)
    semantic = grads[ctx.levels] if ctx.options[4] else None
    return grads[: ctx.levels], None, None, None, None, None, None, None, semantic, None, None


def setup_second(ctx: Any, inputs: tuple, output: Any) -> None:
    """Of both poolings' gradients, for their second derivatives."""
    grad, rois, sizes, *ctx.options = inputs
    ctx.size = grad.shape[2:]
    ctx.shapes = [(sizes[0], grad.shape[1], h, w) for h, w in zip(sizes[1::2], sizes[2::2])]
    ctx.save_for_backward(rois)


def whole(grads: Sequence[Tensor | None], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The gradients, zeros where there is none."""
    like = next(one for one in grads if one is not None)
    return [like.new_zeros(shape) if one is None else one for one, shape in zip(grads, shapes)]


def _second(library, ctx, grads):
    """RoIAlign is linear in its maps: how its gradient moves with the output's gradient is RoIAlign itself."""
    (rois,) = ctx.saved_tensors
    maps = whole(grads, ctx.shapes)
    *options, has_semantic, semantic_scale, semantic_grid, _ = ctx.options
    semantic = maps.pop() if has_semantic else None
    again = library.multi_level_roi_align(maps, rois, *ctx.size, *options, semantic, semantic_scale, semantic_grid)
    return again, *[None] * 10


declare(
    "multi_level_roi_align(Tensor[] features, Tensor rois, int out_h, int out_w, float[] spatial_scales, "
    "int sampling_ratio, bool aligned, float finest_size, Tensor? semantic, float semantic_scale, int semantic_grid) "
    "-> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
    triton="roi_align",
)
# Not deterministic is, on a GPU, a gradient scattered by atomic additions: there to be compared with. No argument has a
# default: torch 2.11 leaves those out of what it holds a second derivative against.
declare(
    "multi_level_roi_align_backward(Tensor grad, Tensor rois, int[] sizes, float[] spatial_scales, "
    "int sampling_ratio, bool aligned, float finest_size, bool has_semantic, float semantic_scale, "
    "int semantic_grid, bool deterministic) -> Tensor[]",
    _fake_backward,
    backward=_second,
    setup_context=setup_second,
    triton="roi_align_backward",
)
