"""Precise RoI pooling: the exact mean of the interpolated map over every bin, differentiable in the boxes too.

RoIAlign takes a few samples per bin; this one integrates. The forward and the maps' gradient are RoIAlign's kernels
with other weights, so all levels take one call; the boxes' gradient has a kernel of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._arguments import flag, items
from htc_fast.ops._declare import declare, dense_like, maps_like
from htc_fast.ops.reference import pr_roi_pool as reference
from htc_fast.ops.roi_align import check_inputs, finest_of, grid_size, scales_of, setup_second, whole

_backend.register("pr_roi_pool", "cpp", "cuda")


def pr_roi_pool(
    features: Sequence[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    *,
    aligned: bool = False,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Average the bilinearly interpolated map over each bin, exactly, on the pyramid level that fits the RoI's size.

    features         L tensors [N, C, H_l, W_l], finest first; zero outside
    rois             [K, 5]  image number, x1, y1, x2, y2 in pixels; or [N, R, 4]; they may require gradients
    output_size      h, w
    spatial_scales   L numbers, such as 1/4, 1/8, 1/16, 1/32
    aligned          shift by half a pixel, as today's RoIAlign; the paper does not
    canonical_size   boxes of this side (pixels) read level `canonical_level`, scale 2 ** -canonical_level
    returns          [K, C, h, w] or [N * R, C, h, w], channels-last in memory; zeros for boxes that are empty or not
                     finite
    raises           ValueError, TypeError; RuntimeError for an image number out of range (on the CPU)
    source           IoU-Net, section 3.4; FPN, equation 1 for the level, which has no gradient
    """
    features, scales, size = items("features", features), scales_of(spatial_scales), grid_size(output_size)
    check_inputs(features, rois, scales, None)
    aligned, finest_size = flag("aligned", aligned), finest_of(canonical_size, canonical_level, scales)
    if _backend.backend_for("pr_roi_pool", features[0]) == "reference":
        return reference.pr_roi_pool(features, rois, size, scales, aligned, finest_size)
    _backend.refuse_tangents("pr_roi_pool", *features, rois)
    return torch.ops.htc_fast.pr_roi_pool(features, rois, *size, scales, aligned, finest_size)


def _fake(features, rois, out_h, out_w, scales, aligned, finest_size):
    return maps_like(features[0], rois.numel() // rois.shape[-1], features[0].shape[1], out_h, out_w)


def _fake_backward(grad, rois, sizes, scales, aligned, finest_size):
    return [maps_like(grad, sizes[0], grad.shape[1], *side) for side in zip(sizes[1::2], sizes[2::2])]


def _fake_boxes(grad, features, rois, scales, aligned, finest_size):
    return dense_like(rois)


def _setup_context(ctx, inputs, output) -> None:
    features, rois, _, _, *ctx.options = inputs
    ctx.sizes = [features[0].shape[0], *(side for one in features for side in one.shape[2:])]
    # The boxes' gradient alone needs the maps.
    ctx.save_for_backward(rois, *(features if rois.requires_grad else []))


def _backward(library, ctx, grad):
    rois, *features = ctx.saved_tensors
    maps, boxes = [None] * len(ctx.needs_input_grad[0]), None
    if any(ctx.needs_input_grad[0]):
        maps = library.pr_roi_pool_backward(grad, rois, ctx.sizes, *ctx.options)
    if ctx.needs_input_grad[1]:
        boxes = library.pr_roi_pool_boxes(grad, features, rois, *ctx.options)
    return maps, boxes, None, None, None, None, None


def _second(library, ctx, grads):
    """The pooling is linear in its maps, so that this is the pooling itself; in the boxes it is not."""
    (rois,) = ctx.saved_tensors
    if ctx.needs_input_grad[1]:
        _no_second()
    return library.pr_roi_pool(whole(grads, ctx.shapes), rois, *ctx.size, *ctx.options), *[None] * 5


def _no_second(*_):
    raise RuntimeError(
        "pr_roi_pool has no second derivative in the boxes: detach the rois, or use the backend 'reference'."
    )


declare(
    "pr_roi_pool(Tensor[] features, Tensor rois, int out_h, int out_w, float[] spatial_scales, bool aligned, "
    "float finest_size) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
)
declare(
    "pr_roi_pool_backward(Tensor grad, Tensor rois, int[] sizes, float[] spatial_scales, bool aligned, "
    "float finest_size) -> Tensor[]",
    _fake_backward,
    backward=_second,
    setup_context=setup_second,
)
declare(
    "pr_roi_pool_boxes(Tensor grad, Tensor[] features, Tensor rois, float[] spatial_scales, bool aligned, "
    "float finest_size) -> Tensor",
    _fake_boxes,
    backward=_no_second,
)
