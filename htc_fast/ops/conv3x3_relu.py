"""3x3 convolution with bias, residual and ReLU, as the heads of a detector are made of."""

import torch
from torch import Tensor

from htc_fast.ops import _backend, _convolutions
from htc_fast.ops._arguments import check_device, check_tensor
from htc_fast.ops._declare import call, declare, maps_like, once
from htc_fast.ops.packed_convolution import Packed
from htc_fast.ops.reference import conv3x3_relu as reference

_backend.register_over_torch("conv3x3_relu")


def conv3x3_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    count: Tensor | None = None,
    packed: Packed | None = None,
) -> Tensor:
    """relu(conv(x) + bias + residual), 3x3 with one pixel of padding.

    x         [K, C, H, W]  RoI features or whole maps; channels-last in memory is not copied
    weight    [O, C, 3, 3]
    bias      [O]
    residual  [K, O, H, W] or None
    count     [N] int32 or None: of each image's K / N maps only the first count[n] are computed, the rest is zeros;
              it stays on the device
    packed    `packed_convolution.Packed(weight)` or None: used on a CPU where no gradient is asked for, without
              residual and count; of no effect once the weight has changed
    returns   [K, O, H, W], channels-last in memory
    raises    ValueError, TypeError
    source    Mask R-CNN's and HTC's heads; sums in float32, TF32 where torch.backends.cudnn.allow_tf32 says so
    """
    _check(x, weight, bias, residual, count)
    if packed is not None and not isinstance(packed, Packed):
        raise TypeError(f"packed must be a packed_convolution.Packed or None, got {type(packed).__name__}.")
    backend = _backend.backend_for("conv3x3_relu", x)
    if backend == "triton":
        _backend.refuse_tangents("conv3x3_relu", x, weight, bias, residual)
        x, weight, bias, residual = _convolutions.autocast(x, weight, bias, residual)
        return call(torch.ops.htc_fast_triton.conv3x3_relu, x, weight, bias, residual, count)
    if backend != "reference":
        x = x.contiguous(memory_format=torch.channels_last)
        if residual is None and count is None:
            return _convolutions.convolution_relu(x, weight, bias, packed)
    return reference.conv3x3_relu(x, weight, bias, residual, count)


def _check(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, count: Tensor | None) -> None:
    if count is None and _convolutions.good_maps(x, *(() if residual is None else (residual,))):
        fits = _convolutions.good_layer(x, weight, bias, 3, x.shape[1])
        if fits and (residual is None or residual.shape == (x.shape[0], weight.shape[0], *x.shape[2:])):
            return
    _convolutions.check_weight("weight", weight, bias, 3)
    _convolutions.check_maps("x", x, weight.shape[1])
    if residual is not None:
        check_tensor("residual", residual)
    _convolutions.check_same(x, weight=weight, bias=bias, residual=residual)
    if residual is not None and residual.shape != (len(x), weight.shape[0], *x.shape[2:]):
        raise ValueError(f"residual must be {[len(x), weight.shape[0], *x.shape[2:]]}, got {list(residual.shape)}.")
    if count is None:
        return
    check_tensor("count", count)
    if count.dim() != 1 or count.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"count must be [N] int32 or int64, got {list(count.shape)} {count.dtype}.")
    check_device("count", count, "the input", x)
    if not len(count) or len(x) % len(count):
        raise ValueError(f"count must have one number per image of equally many maps, got {len(count)} for {len(x)}.")


def _fake(x, weight, bias, residual, count):
    return maps_like(x, x.shape[0], weight.shape[0], *x.shape[2:])


def _fake_backward(grad, out, x, weight, count, x_needed=True, weight_needed=True, forced=False):
    x, weight, out = (maps_like(one, *one.shape) for one in (x, weight, out))
    bias = weight.new_empty(weight.shape[0])
    return x if x_needed else x.new_empty(0), weight if weight_needed else x.new_empty(0), bias, out


def _setup_context(ctx, inputs, output) -> None:
    x, weight, _, residual, count = inputs
    ctx.has_residual, ctx.forced = residual is not None, _backend.forced_backend() is not None
    ctx.save_for_backward(output, x, weight, count)


def _backward(library, ctx, grad):
    once(grad)
    x_needed, weight_needed, *_ = ctx.needs_input_grad
    grads = library.conv3x3_relu_backward(grad, *ctx.saved_tensors, x_needed, weight_needed, ctx.forced)
    needed = x_needed, weight_needed, True, ctx.has_residual
    return *(one if wanted else None for one, wanted in zip(grads, needed)), None


# Other devices' convolutions are torch's own, with its own gradient: there is nothing to declare for them.
declare(
    "conv3x3_relu(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? count) -> Tensor",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
    native=False,
    triton="conv3x3_relu",
)
declare(
    "conv3x3_relu_backward(Tensor grad, Tensor out, Tensor x, Tensor weight, Tensor? count, "
    "bool x_needed=True, bool weight_needed=True, bool forced=False) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
    native=False,
    triton="conv3x3_relu",
)
