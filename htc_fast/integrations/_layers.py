"""Convolutions without gradient: the norm behind one folded into it, 3x3 and 1x1 ones packed, what follows in one pass.

What is made of a layer's weights is kept beside it, not in it, and made anew once they have changed.
"""

from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from htc_fast.ops import _onednn, packed_convolution
from htc_fast.ops._convolutions import can_fuse
from htc_fast.ops.convolution import convolution

# Where they are, and what they are called.
CONVOLUTIONS = (
    ("torch.nn.modules.conv", "Conv2d"),
    ("mmcv.cnn.bricks.wrappers", "Conv2d"),  # torch's but for maps without pixels in torch before 1.5
    ("htc_fast.integrations.detectron2.convolutions", "Conv2d"),  # whose norm and activation are its caller's matter
)
FROZEN = (("torchvision.ops.misc", "FrozenBatchNorm2d"), ("detectron2.layers.batch_norm", "FrozenBatchNorm2d"))
SOME = 16  # numbers of a tensor that are looked at
FEWEST = 64  # outputs of a convolution that is computed with some more, whose number suits the faster forms


class Folded(NamedTuple):
    """What a convolution and the norm behind it come to.

    packed  the weight in a faster form, where that pays; with outputs of zeros up to the next multiple of 32
    state   of the tensors that it was made of
    """

    weight: Tensor
    bias: Tensor
    packed: packed_convolution.Packed | None
    state: tuple


_folded: WeakKeyDictionary[nn.Module, Folded] = WeakKeyDictionary()


def watched(x: Any) -> bool:
    """Whether gradients, autocast, a compiler or a tracer look on, or x is no tensor with pixels."""
    if not isinstance(x, Tensor) or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    looked_at = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
    return looked_at or x.dim() != 4 or not x.numel() or torch._C._len_torch_dispatch_stack() > 0


def takes(x: Any, conv: Any, norm: Any = None) -> bool:
    """Whether `run` may stand for conv(x), and norm: nothing looks on, no hooks, nothing unusual."""
    return not watched(x) and is_plain(conv) and (norm is None or is_fixed(norm)) and x.dtype == conv.weight.dtype


def run(x: Tensor, conv: Any, norm: Any = None, *, relu: bool, other: Tensor | None = None) -> Tensor:
    """relu(norm(conv(x)) + other), where `takes`; channels-last in memory."""
    layer = folded(conv, norm)
    x = x.contiguous(memory_format=torch.channels_last)
    if x.device.type != "cpu":
        geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
        return convolution(x, layer.weight, layer.bias, other, relu=relu, **geometry)
    given = layer.weight, layer.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    if layer.packed is not None and _onednn.unwatched(x) and layer.packed.fits(layer.packed.weight, x.dtype):
        outputs, wide = len(layer.weight), len(layer.packed.weight)
        bias = layer.bias if wide == outputs else F.pad(layer.bias, (0, wide - outputs))
        if other is not None and wide == outputs and packed_convolution.adds(x, other, layer.weight):
            return packed_convolution.convolution(x, layer.packed.values, bias, relu, other)
        out = packed_convolution.convolution(x, layer.packed.values, bias, relu=relu and other is None)[:, :outputs]
    elif not can_fuse(x):
        out = F.conv2d(x, layer.weight, layer.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        out = out.relu_() if relu and other is None else out
    elif other is None:
        out = _onednn.convolution(x, given, "none")  # whose own ReLU makes zeros of NaN
        return out.relu_() if relu else out
    else:
        other = other.contiguous(memory_format=torch.channels_last)
        out = _onednn.convolution_sum(x, other, given, False, overwrites=False)
        return out.relu_() if relu else out
    if other is not None:
        out = out.add_(other)
        out = out.relu_() if relu else out
    return out


def run_all(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """One module after the other; a convolution takes the norm and the ReLU behind it along."""
    rest = list(modules)
    while rest:
        first, *rest = rest
        if not is_plain(first):
            x = first(x)
            continue
        norm = rest[0] if rest and is_fixed(rest[0]) else None
        after = rest[1:] if norm is not None else rest
        if not takes(x, first, norm):
            x = first(x)
            continue
        relu = bool(after) and is_relu(after[0])
        x = run(x, first, norm, relu=relu)
        rest = after[relu:]
    return x


@torch.no_grad()
def folded(conv: Any, norm: Any = None) -> Folded:
    """What stands beside conv; made where it is missing or no longer fits."""
    state = tuple(_states(conv, norm))
    found = _folded.get(conv)
    if found is not None and found.state == state:
        return found
    weight, bias = conv.weight.detach() if norm is not None else conv.weight, conv.bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if norm is not None:
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
        bias = (bias - norm.running_mean) * scale + (0 if norm.bias is None else norm.bias)
        weight, bias = (weight * scale[:, None, None, None]).to(weight.dtype), bias.to(weight.dtype)
    packed = None
    if packed_convolution.direct(conv):
        extra = -len(weight) % 32 if len(weight) >= FEWEST else 0
        wide = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, extra)) if extra else weight
        packed = packed_convolution.Packed(wide) if packed_convolution.pays(wide, wide.dtype) else None
    made = Folded(weight, bias, packed, state)
    _folded[conv] = made
    return made


def _states(conv: Any, norm: Any) -> Iterator[tuple]:
    """Where every tensor lies, how often it was written to, on a CPU also what its numbers come to; the settings."""
    for one in (conv, norm):
        if one is not None:
            for tensor in (*one.parameters(recurse=False), *one.buffers(recurse=False)):
                yield tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.dtype, _some(tensor)
    yield getattr(norm, "eps", None), conv.stride, conv.padding, conv.dilation, conv.groups


def _some(tensor: Tensor) -> list:
    """The sum and a few numbers of a tensor: what is written through .data, or in inference mode, counts no version."""
    if tensor.device.type != "cpu" or not tensor.numel():
        return []
    count = min(tensor.numel(), SOME)
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    some = tensor.as_strided((count,), (tensor.numel() // count if dense else 0,))
    return [tensor.sum().item(), *some.tolist()]


def is_plain(conv: Any) -> bool:
    """Whether a convolution is torch's own, or a library's that computes the same, without hooks."""
    return (
        _called(conv, CONVOLUTIONS)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not hooked(conv)
    )


def is_fixed(norm: Any) -> bool:
    """Whether a norm multiplies each channel by a number and adds one, without hooks."""
    frozen = _called(norm, FROZEN)
    counted = type(norm) is nn.BatchNorm2d and not norm.training and norm.running_mean is not None
    return (frozen or counted) and not hooked(norm)


def is_relu(module: Any) -> bool:
    """Whether a module is torch's ReLU, without hooks."""
    return type(module) is nn.ReLU and not hooked(module)


def hooked(*modules: nn.Module) -> bool:
    """Whether something waits for a call of these modules or of one inside them, or stands in for their forward."""
    if _has_any_global_hook():
        return True
    # Hooks of weights that are made at each call are hooks.
    every = (inner for one in modules for inner in one.modules())
    return any(bool(one._forward_hooks or one._forward_pre_hooks) or patched(one) for one in every)


def patched(one: Any) -> bool:
    """Whether an object has a function of its own in place of a method of its class."""
    own = [name for name, value in vars(one).items() if isinstance(value, (FunctionType, MethodType))]
    return any(hasattr(type(one), name) for name in own)


def forget(model: nn.Module) -> None:
    """Let go of what stands beside the layers of a model."""
    for one in model.modules():
        _folded.pop(one, None)


def _called(module: Any, names: tuple[tuple[str, str], ...]) -> bool:
    """Whether a module's class is one of these, which need not be imported."""
    return (type(module).__module__, type(module).__name__) in names
