"""Fusion of a feature pyramid at one level's size, as HTC's semantic branch does."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.ops import _backend, _convolutions, resampled_sum
from htc_fast.ops._arguments import integer, items
from htc_fast.ops._declare import declare, dense_like, maps_like, once
from htc_fast.ops.reference import semantic_merge as reference

_backend.register_over_torch("semantic_merge")


def semantic_merge(
    features: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], *, level: int = 1
) -> Tensor:
    """Sum over the levels of relu(1x1(level resampled to one size)), bilinear with corners aligned.

    features  L maps [N, C, H_l, W_l], finest first
    weights   L tensors [O, C, 1, 1]
    biases    L tensors [O]
    level     whose size the result has; 1 is stride 8 of a pyramid P2..P6
    returns   [N, O, H_level, W_level], channels-last in memory
    raises    ValueError, TypeError
    source    HTC, figure 3. The definition resamples first; the 1x1, not the ReLU, may as well come before
    """
    features, weights, biases = items("features", features), items("weights", weights), items("biases", biases)
    if not 1 <= len(features) <= 8 or not len(features) == len(weights) == len(biases):
        raise ValueError(
            f"expected 1 to 8 features with a weight and a bias each, got {len(features)}, {len(weights)} "
            f"and {len(biases)}."
        )
    level = integer("level", level, 0, len(features) - 1)
    for number, (one, weight, bias) in enumerate(zip(features, weights, biases)):
        _convolutions.check_weight(f"weights[{number}]", weight, bias, 1)
        _convolutions.check_maps(f"features[{number}]", one, weight.shape[1])
        if weight.shape[:2] != weights[0].shape[:2] or one.shape[0] != features[0].shape[0]:
            raise ValueError(
                f"features[{number}] {list(one.shape)} with weight {list(weight.shape)} does not fit "
                f"features[0] {list(features[0].shape)} with {list(weights[0].shape)}: images and "
                "channels must be the same."
            )
        _convolutions.check_same(features[0], **{f"features[{number}]": one, "weights": weight, "biases": bias})
    backend = _backend.backend_for("semantic_merge", features[0])
    if backend == "reference":
        return reference.semantic_merge(features, weights, biases, level)
    features, weights, biases = (list(_convolutions.autocast(*some)) for some in (features, weights, biases))
    if backend == "triton":
        _backend.refuse_tangents("semantic_merge", *features, *weights, *biases)
        return torch.ops.htc_fast_triton.semantic_merge(features, weights, biases, level)
    height, width = features[level].shape[2:]
    layers = [functools.partial(F.conv2d, weight=weight, bias=bias) for weight, bias in zip(weights, biases)]
    return merged(features, layers, (height, width))


def merged(features: Sequence[Tensor], layers: Sequence[Callable[..., Tensor]], size: tuple[int, int]) -> Tensor:
    """1x1 and resampling in the order that multiplies fewer pixels: bilinear weights sum to 1, so they commute."""
    products = []
    for one, layer in zip(features, layers):
        one = one.contiguous(memory_format=torch.channels_last)
        if one.shape[2] * one.shape[3] > size[0] * size[1]:
            one = _resampled(one, size)
        products.append(layer(one))
    if resampled_sum.takes(products[0]):
        return resampled_sum.resampled_sum(products, size)
    parts = [_resampled(one, size).relu_() for one in products]
    return sum(parts[1:], parts[0])


def _resampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    if resampled_sum.takes(maps):
        return resampled_sum.resample(maps, size)
    # Autocast resamples in float32 and would leave it at that.
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True).to(maps.dtype)


def _fake(features, weights, biases, level):
    return maps_like(features[level], features[0].shape[0], weights[0].shape[0], *features[level].shape[2:])


def _fake_backward(grad, features, weights, biases, level, forced=False):
    return [*(maps_like(one, *one.shape) for one in features), *(dense_like(one) for one in [*weights, *biases])]


def _setup_context(ctx, inputs, output) -> None:
    *lists, ctx.level = inputs
    ctx.levels, ctx.forced = len(lists[0]), _backend.forced_backend() is not None
    ctx.save_for_backward(*(one for some in lists for one in some))


def _backward(library, ctx, grad):
    once(grad)
    n = ctx.levels
    features, weights, biases = (list(ctx.saved_tensors[i * n : (i + 1) * n]) for i in range(3))
    grads = library.semantic_merge_backward(grad, features, weights, biases, ctx.level, ctx.forced)
    return grads[:n], grads[n : 2 * n], grads[2 * n :], None


declare(
    "semantic_merge(Tensor[] features, Tensor[] weights, Tensor[] biases, int level) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
    native=False,
    triton="semantic_merge",
)
declare(
    "semantic_merge_backward(Tensor grad, Tensor[] features, Tensor[] weights, Tensor[] biases, int level, "
    "bool forced=False) -> Tensor[]",
    _fake_backward,
    native=False,
    triton="semantic_merge",
)
