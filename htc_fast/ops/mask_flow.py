"""Information flow between the mask heads of a cascade (HTC, equation 5 and figure 2)."""

import torch
from torch import Tensor

from htc_fast.ops import _backend, _convolutions
from htc_fast.ops._arguments import check_floats, check_tensor
from htc_fast.ops._declare import call, declare, dense_like, maps_like, once
from htc_fast.ops.reference import mask_flow as reference

_backend.register_over_torch("mask_flow")


def mask_flow(x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x + relu(1x1(m)): the features that a mask head starts from, given those that the head before it ended with.

    x        [K, O, H, W]
    m        [K, C, H, W]
    weight   [O, C, 1, 1]
    bias     [O]
    returns  [K, O, H, W], channels-last in memory
    raises   ValueError, TypeError
    source   HTC, section 3.1
    """
    _check(x, m, weight, bias)
    backend = _backend.backend_for("mask_flow", x)
    if backend == "triton":
        _backend.refuse_tangents("mask_flow", x, m, weight, bias)
        return call(torch.ops.htc_fast_triton.mask_flow, *_convolutions.autocast(x, m, weight, bias))
    if backend == "reference":
        return reference.mask_flow(x, m, weight, bias)
    x, m = (one.contiguous(memory_format=torch.channels_last) for one in (x, m))
    flow = _convolutions.pointwise_relu(m, weight, bias)
    return flow.add_(x) if _convolutions.can_fuse(m) else x + flow


def _check(x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> None:
    if not (_convolutions.good_maps(x, m) and _convolutions.good_layer(m, weight, bias, 1, m.shape[1])):
        _convolutions.check_weight("weight", weight, bias, 1)
        _convolutions.check_maps("m", m, weight.shape[1])
        check_tensor("x", x)
        check_floats("x", x)
        _convolutions.check_same(x, m=m, weight=weight, bias=bias)
    wanted = [m.shape[0], weight.shape[0], *m.shape[2:]]
    if list(x.shape) != wanted:
        raise ValueError(f"x must be {wanted} for this m and weight, got {list(x.shape)}.")


def _fake(x, m, weight, bias):
    return maps_like(m, m.shape[0], weight.shape[0], *m.shape[2:])


def _fake_backward(grad, m, weight, bias, forced=False):
    return maps_like(m, *m.shape), dense_like(weight), dense_like(bias)


def _setup_context(ctx, inputs, output) -> None:
    ctx.forced = _backend.forced_backend() is not None
    ctx.save_for_backward(*inputs[1:])


def _backward(library, ctx, grad):
    once(grad)
    return grad, *library.mask_flow_backward(grad, *ctx.saved_tensors, ctx.forced)


declare(
    "mask_flow(Tensor x, Tensor m, Tensor weight, Tensor bias) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
    native=False,
    triton="mask_flow",
)
declare(
    "mask_flow_backward(Tensor grad, Tensor m, Tensor weight, Tensor bias, bool forced=False) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
    native=False,
    triton="mask_flow",
)
