"""The end of a mask head: up-sampling by two and one logit map per class, or of the given class alone."""

import torch
from torch import Tensor

from htc_fast.ops import _backend, _convolutions, _onednn, amx
from htc_fast.ops._declare import call, declare, dense_like, maps_like, once
from htc_fast.ops.reference import mask_predict as reference

_backend.register_over_torch("mask_predict")
# Beyond these the fused kernel repeats the deconvolution for every block of classes: 2.6 times the operations for 1203.
MANY_CLASSES = 128
# Maps at a time on a CPU: what is up-sampled of them, 6 MB of float32, stays in the cache until its logits are made.
BLOCK = 8


def mask_predict(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor | None = None
) -> Tensor:
    """1x1(relu(deconvolution(x))), the deconvolution 2x2 with stride 2.

    x          [K, C, H, W]
    up_weight  [C, O, 2, 2], up_bias [O]
    weight     [classes, O, 1, 1], bias [classes]
    labels     [K] integers or None: the class wanted of each map; maps whose label is no class give zeros
    returns    [K, classes, 2H, 2W], channels-last in memory; with labels [K, 2H, 2W]
    raises     ValueError, TypeError
    source     Mask R-CNN, figure 4
    """
    _check(x, up_weight, up_bias, weight, bias, labels)
    backend = _backend.backend_for("mask_predict", x)
    if backend == "triton" and labels is None and weight.shape[0] > MANY_CLASSES and _backend.forced_backend() is None:
        backend = "cuda"
    if backend == "triton":
        _backend.refuse_tangents("mask_predict", x, up_weight, up_bias, weight, bias)
        given = _convolutions.autocast(x, up_weight, up_bias, weight, bias)
        return call(torch.ops.htc_fast_triton.mask_predict, *given, labels)
    if backend != "reference":
        x = x.contiguous(memory_format=torch.channels_last)
        if labels is not None and x.device.type == "cpu" and torch.is_grad_enabled():
            return _learned(x, up_weight, up_bias, weight, bias, labels)
        if labels is not None and _onednn.unwatched(x):
            (taken,) = _convolutions.autocast(x)
            if amx.predicts(up_weight, taken.dtype):
                return amx.mask_predict(taken, up_weight, up_bias, weight, bias, labels)
            blocks = zip(x.split(BLOCK), labels.split(BLOCK))
            return torch.cat(
                [reference.mask_predict(one, up_weight, up_bias, weight, bias, own) for one, own in blocks]
            )
    out = reference.mask_predict(x, up_weight, up_bias, weight, bias, labels)
    # Of maps of one pixel torch cannot tell the layout.
    return out if labels is not None else out.contiguous(memory_format=torch.channels_last)


def _learned(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """`mask_predict` of labels, with gradients, on a CPU: the deconvolution as a 1x1 convolution to four pixels, each
    with its channels, whose logits alone are put in order."""
    corners = up_weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None]
    up = _convolutions.pointwise_relu(x, corners, up_bias.repeat(4))
    count, _, height, width = x.shape
    pixels = up.permute(0, 2, 3, 1).reshape(count, 4 * height * width, up_bias.shape[0])
    logits = reference.own_logits(pixels, weight, bias, labels)
    return logits.unflatten(1, (height, width, 2, 2)).transpose(2, 3).reshape(count, 2 * height, 2 * width)


def _check(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor | None) -> None:
    if _convolutions.good_maps(x) and _convolutions.good_layer(x, up_weight, up_bias, 2, x.shape[1], outputs=1):
        if _convolutions.good_layer(x, weight, bias, 1, up_weight.shape[1]):
            return None if labels is None else _convolutions.check_labels(labels, x)
    _convolutions.check_weight("up_weight", up_weight, up_bias, 2, outputs=1)
    _convolutions.check_weight("weight", weight, bias, 1)
    _convolutions.check_maps("x", x, up_weight.shape[0])
    _convolutions.check_same(x, up_weight=up_weight, up_bias=up_bias, weight=weight, bias=bias)
    if weight.shape[1] != up_weight.shape[1]:
        raise ValueError(f"weight must have up_weight's {up_weight.shape[1]} channels, got {list(weight.shape)}.")
    if labels is not None:
        _convolutions.check_labels(labels, x)


def _fake(x, up_weight, up_bias, weight, bias, labels):
    count, _, height, width = x.shape
    if labels is not None:
        return x.new_empty(count, 2 * height, 2 * width)
    return maps_like(x, count, weight.shape[0], 2 * height, 2 * width)


def _fake_backward(grad, x, up_weight, up_bias, weight, labels, forced=False):
    maps = [maps_like(one, *one.shape) for one in (x, up_weight)]
    return *maps, dense_like(up_bias), dense_like(weight), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output) -> None:
    *tensors, _, labels = inputs
    ctx.forced = _backend.forced_backend() is not None
    ctx.save_for_backward(*tensors, labels)


def _backward(library, ctx, grad):
    once(grad)
    return *library.mask_predict_backward(grad, *ctx.saved_tensors, ctx.forced), None


declare(
    "mask_predict(Tensor x, Tensor up_weight, Tensor up_bias, Tensor weight, Tensor bias, Tensor? labels) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
    native=False,
    triton="mask_predict",
)
declare(
    "mask_predict_backward(Tensor grad, Tensor x, Tensor up_weight, Tensor up_bias, Tensor weight, Tensor? labels, "
    "bool forced=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
    native=False,
    triton="mask_predict_backward",
)
