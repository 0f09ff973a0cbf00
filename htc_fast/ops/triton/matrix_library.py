"""The matrix operators as PyTorch sees them: schemas, fake kernels and gradients, in `htc_fast_triton::`.

On other devices, and where Triton is missing, torch's own oneDNN and cuDNN do this work, so that there is nothing to
register for them.
"""

import importlib

import torch
from torch import Tensor

from htc_fast.ops.triton.library import NAMESPACE

OPERATORS = (
    ("conv3x3_relu", "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? count) -> Tensor"),
    ("conv3x3_relu_backward",
     "(Tensor grad, Tensor out, Tensor x, Tensor weight, Tensor? count) -> (Tensor, Tensor, Tensor, Tensor)"),
    ("mask_flow", "(Tensor x, Tensor m, Tensor weight, Tensor bias) -> Tensor"),
    ("mask_flow_backward", "(Tensor grad, Tensor m, Tensor weight, Tensor bias) -> (Tensor, Tensor, Tensor)"),
    ("mask_predict",
     "(Tensor x, Tensor up_weight, Tensor up_bias, Tensor weight, Tensor bias, Tensor? labels) -> Tensor"),
    ("mask_predict_backward",
     "(Tensor grad, Tensor x, Tensor up_weight, Tensor up_bias, Tensor weight, Tensor? labels) "
     "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"),
    ("semantic_merge", "(Tensor[] features, Tensor[] weights, Tensor[] biases, int level) -> Tensor"),
    ("semantic_merge_backward", "(Tensor grad, Tensor[] features, Tensor[] weights, Tensor[] biases, int level) "
     "-> Tensor[]"),
    ("mask_branch", "(Tensor x, Tensor labels, Tensor[] tensors, int[] convolutions, bool[] flows, int[] averaged) "
     "-> Tensor"),
)  # fmt: skip


def _runner(name: str):
    file = name.removesuffix("_backward")

    def run(*arguments):
        return getattr(importlib.import_module(f"htc_fast.ops.triton.{file}"), name)(*arguments)

    return run


_library = torch.library.Library(NAMESPACE, "FRAGMENT")
for _name, _schema in OPERATORS:
    _library.define(_name + _schema)
    for _device in ("CUDA", "CPU"):
        _library.impl(_name, _runner(_name), _device)


def _fake(name: str):
    return torch.library.register_fake(f"{NAMESPACE}::{name}", lib=_library)


def _maps(like: Tensor, count, channels, height, width) -> Tensor:
    return like.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


def _like(one: Tensor) -> Tensor:
    return torch.empty_like(one, memory_format=torch.channels_last if one.dim() == 4 else torch.contiguous_format)


def _weights(weight: Tensor) -> Tensor:
    """A gradient as the kernels lay it out: channels of a pixel side by side."""
    outputs, channels, height, width = weight.shape
    return _maps(weight, outputs, channels, height, width)


@_fake("conv3x3_relu")
def _(x, weight, bias, residual, count):
    return _maps(x, x.shape[0], weight.shape[0], *x.shape[2:])


@_fake("conv3x3_relu_backward")
def _(grad, out, x, weight, count):
    return _maps(x, *x.shape), _weights(weight), weight.new_empty(weight.shape[0]), _maps(out, *out.shape)


@_fake("mask_flow")
def _(x, m, weight, bias):
    return _maps(m, m.shape[0], weight.shape[0], *m.shape[2:])


@_fake("mask_flow_backward")
def _(grad, m, weight, bias):
    return _maps(m, *m.shape), torch.empty_like(weight, memory_format=torch.contiguous_format), torch.empty_like(bias)


@_fake("mask_predict")
def _(x, up_weight, up_bias, weight, bias, labels):
    count, _, height, width = x.shape
    if labels is not None:
        return x.new_empty(count, 2 * height, 2 * width)
    return _maps(x, count, weight.shape[0], 2 * height, 2 * width)


@_fake("mask_predict_backward")
def _(grad, x, up_weight, up_bias, weight, labels):
    one_by_one = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return (_maps(x, *x.shape), _weights(up_weight), torch.empty_like(up_bias), one_by_one,
            weight.new_empty(weight.shape[0]))  # fmt: skip


@_fake("semantic_merge")
def _(features, weights, biases, level):
    return _maps(features[level], features[0].shape[0], weights[0].shape[0], *features[level].shape[2:])


@_fake("semantic_merge_backward")
def _(grad, features, weights, biases, level):
    contiguous = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in [*weights, *biases]]
    return [*(_maps(one, *one.shape) for one in features), *contiguous]


@_fake("mask_branch")
def _(x, labels, tensors, convolutions, flows, averaged):
    return x.new_empty(x.shape[0], 2 * x.shape[2], 2 * x.shape[3], dtype=torch.float32)


def _once(grad: Tensor) -> None:
    if torch.is_grad_enabled() and grad.requires_grad:
        raise RuntimeError("this operator has no second derivative: call backward without create_graph=True.")


def _register(name: str, backward, setup_context) -> None:
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_library)


def _conv_context(ctx, inputs, output) -> None:
    ctx.has_residual = inputs[3] is not None
    ctx.save_for_backward(output, inputs[0], inputs[1], inputs[4])


def _conv_backward(ctx, grad):
    _once(grad)
    *grads, residual = torch.ops.htc_fast_triton.conv3x3_relu_backward(grad, *ctx.saved_tensors)
    return *grads, residual if ctx.has_residual else None, None


def _flow_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:])


def _flow_backward(ctx, grad):
    _once(grad)
    return grad, *torch.ops.htc_fast_triton.mask_flow_backward(grad, *ctx.saved_tensors)


def _predict_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4], inputs[5])


def _predict_backward(ctx, grad):
    _once(grad)
    return *torch.ops.htc_fast_triton.mask_predict_backward(grad, *ctx.saved_tensors), None


def _merge_context(ctx, inputs, output) -> None:
    *lists, ctx.level = inputs
    ctx.levels = len(lists[0])
    ctx.save_for_backward(*(one for some in lists for one in some))


def _merge_backward(ctx, grad):
    _once(grad)
    n = ctx.levels
    features, weights, biases = (list(ctx.saved_tensors[i * n : (i + 1) * n]) for i in range(3))
    grads = torch.ops.htc_fast_triton.semantic_merge_backward(grad, features, weights, biases, ctx.level)
    return grads[:n], grads[n : 2 * n], grads[2 * n :], None


_register("conv3x3_relu", _conv_backward, _conv_context)
_register("mask_flow", _flow_backward, _flow_context)
_register("mask_predict", _predict_backward, _predict_context)
_register("semantic_merge", _merge_backward, _merge_context)
