"""The mask heads of a cascade, or of any detector, from RoI features to probabilities; for inference."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from htc_fast.errors import short
from htc_fast.ops import _backend, _convolutions
from htc_fast.ops._arguments import integer, items
from htc_fast.ops._declare import call, declare
from htc_fast.ops.conv3x3_relu import conv3x3_relu
from htc_fast.ops.mask_flow import mask_flow
from htc_fast.ops.mask_predict import mask_predict
from htc_fast.ops.packed_convolution import Packed
from htc_fast.ops.reference import mask_branch as reference

_backend.register_over_torch("mask_branch")
Layer = tuple[Tensor, Tensor]


class MaskHeadWeights(NamedTuple):
    """One mask head. Each layer is (weight, bias).

    convolutions  [O, C, 3, 3] each, followed by ReLU
    upsample      [C, O, 2, 2]  deconvolution with stride 2, followed by ReLU
    logits        [classes, C, 1, 1]
    flow          [C, C, 1, 1] or None: takes in the features of the head before
    packed        those of the convolutions' weights that are in a faster form too, as conv3x3_relu takes them
    """

    convolutions: tuple[Layer, ...]
    upsample: Layer
    logits: Layer
    flow: Layer | None = None
    packed: tuple[Packed, ...] = ()


def mask_head_weights(*modules: nn.Module) -> MaskHeadWeights:
    """The weights of a head made of 3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution, in this order.

    modules  such as torchvision's mask_head and mask_predictor, or detectron2's and mmdetection's heads; one more 1x1
             convolution at the end is the flow, as in mmdetection's HTCMaskHead
    raises   ValueError if there are other layers with weights (a norm must be folded first), or not these; TypeError
    """
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules must be torch modules, got {short(module)}.")
    layers: list[Any] = [one for module in modules for one in module.modules() if one._parameters or one._buffers]
    kinds = [_kind(one) for one in layers]
    last = ["ConvTranspose2d 2x2 stride 2", "Conv2d 1x1"]
    flow = kinds[-3:] == [*last, "Conv2d 1x1"]
    convolutions = len(layers) - len(last) - flow
    if kinds != ["Conv2d 3x3 padding 1"] * convolutions + last + ["Conv2d 1x1"] * flow:
        raise ValueError(
            f"expected 3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution, got {', '.join(kinds) or 'none'}."
        )
    found = [(one.weight, _bias(one)) for one in layers]
    upsample, logits = found[convolutions : convolutions + 2]
    return MaskHeadWeights(tuple(found[:convolutions]), upsample, logits, found[-1] if flow else None)


def _kind(layer: Any) -> str:
    """What a layer computes, in words: name, size, and whatever is not as usual."""
    convolution = next((one for one in (nn.Conv2d, nn.ConvTranspose2d) if _computes_as(layer, one)), None)
    if convolution is None:
        return type(layer).__name__
    usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "padding_mode": "zeros"}
    words = [convolution.__name__, "x".join(map(str, layer.kernel_size))]
    for name, value in usual.items():
        found = getattr(layer, name)
        found = found[0] if isinstance(found, tuple) and len(set(found)) == 1 else found
        words += [f"{name.replace('_', ' ')} {found}"] if found != value else []
    return " ".join(words)


def _computes_as(layer: Any, kind: Any) -> bool:
    """Whether a layer is torch's own, or a library's that computes the same: others make weights of their weights."""
    own, named = type(layer), (type(layer).__module__.partition(".")[0], type(layer).__name__)
    inherits = own.forward is kind.forward and getattr(own, "_conv_forward", 0) is getattr(kind, "_conv_forward", 0)
    wrapper = named[0] in ("mmcv", "detectron2", "htc_fast") and named[1] == kind.__name__
    return isinstance(layer, kind) and (inherits or wrapper)


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    return layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias


@torch.no_grad()
def mask_branch(
    x: Tensor, labels: Tensor, heads: Sequence[MaskHeadWeights], *, averaged: Sequence[int] | None = None
) -> Tensor:
    """Mean mask probability of the given class over the heads, each fed by the one before where it has a flow.

    x         [K, C, H, W]  RoI features that every head starts from
    labels    [K] integers; maps whose label is no class give zeros, which behind the last class cost a GPU no logits
    heads     in order; `mask_head_weights` takes them from other detectors' modules
    averaged  numbers of the heads whose probabilities are averaged; None: all
    returns   [K, 2H, 2W] float32; no gradient
    raises    ValueError, TypeError
    source    HTC, section 3.1 and figure 2
    """
    heads = items("heads", heads)
    _check(x, labels, heads)
    wanted = range(len(heads)) if averaged is None else items("averaged", averaged)
    averaged = sorted({integer("a number in averaged", one, 0, len(heads) - 1) for one in wanted})
    if not averaged:
        raise ValueError(f"averaged must name some of the heads 0 to {len(heads) - 1}, got none.")
    heads = heads[: averaged[-1] + 1]
    backend = _backend.backend_for("mask_branch", x)
    if backend == "reference":
        return reference.mask_branch(x, labels, heads, averaged)
    if backend != "triton":
        packed = {id(one.weight): one for head in heads for one in head.packed}

        def convolution(x: Tensor, weight: Tensor, bias: Tensor, residual: None) -> Tensor:
            return conv3x3_relu(x, weight, bias, residual, packed=packed.get(id(weight)))

        return reference.mask_branch(x, labels, heads, averaged, (convolution, mask_flow, mask_predict))
    tensors = [one for head in heads for layer in _layers(head) for one in layer]
    x, *tensors = _convolutions.autocast(x, *tensors)
    counts, flows = [len(head.convolutions) for head in heads], [head.flow is not None for head in heads]
    return call(torch.ops.htc_fast_triton.mask_branch, x, labels, tensors, counts, flows, averaged)


def _layers(head: MaskHeadWeights) -> list[Layer]:
    return [*([head.flow] if head.flow is not None else []), *head.convolutions, head.upsample, head.logits]


def _check(x: Tensor, labels: Tensor, heads: list[MaskHeadWeights]) -> None:
    if not heads:
        raise ValueError("heads must hold at least one MaskHeadWeights, got none.")
    _convolutions.check_maps("x", x)
    _convolutions.check_labels(labels, x)
    before = None  # channels that the head before ends with
    for number, head in enumerate(heads):
        if not isinstance(head, MaskHeadWeights):
            raise TypeError(f"heads[{number}] must be MaskHeadWeights, got {type(head).__name__}.")
        before = _check_head(f"heads[{number}]", head, x, before)
        if head.logits[0].shape[0] != heads[0].logits[0].shape[0]:
            raise ValueError(
                f"heads[{number}].logits must have {len(heads[0].logits[0])} classes like heads[0]'s, got "
                f"{len(head.logits[0])}."
            )


def _check_head(name: str, head: MaskHeadWeights, x: Tensor, before: int | None) -> int:
    """Channels that the head's convolutions end with."""
    channels = x.shape[1]
    if head.flow is not None:
        if before is None:
            raise ValueError(f"{name} has a flow, but there is no head before it.")
        _check_layer(f"{name}.flow", head.flow, 1, before, x)
        if head.flow[0].shape[0] != channels:
            raise ValueError(f"{name}.flow must end in x's {channels} channels, got {len(head.flow[0])}.")
    convolutions = f"{name}.convolutions"
    for layer in items(convolutions, head.convolutions):
        _check_layer(convolutions, layer, 3, channels, x)
        channels = layer[0].shape[0]
    _check_layer(f"{name}.upsample", head.upsample, 2, channels, x, outputs=1)
    _check_layer(f"{name}.logits", head.logits, 1, head.upsample[0].shape[1], x)
    for one in items(f"{name}.packed", head.packed):
        if not isinstance(one, Packed):
            raise TypeError(f"{name}.packed must hold packed_convolution.Packed, got {type(one).__name__}.")
    return channels


def _check_layer(name: str, layer: Layer, kernel: int, channels: int, x: Tensor, outputs: int = 0) -> None:
    if type(layer) is tuple and len(layer) == 2 and _convolutions.good_layer(x, *layer, kernel, channels, outputs):
        return
    if not isinstance(layer, (tuple, list)) or len(layer) != 2:
        raise TypeError(f"{name} must be a pair of weight and bias, got {type(layer).__name__}.")
    _convolutions.check_weight(name, *layer, kernel, outputs)
    if layer[0].shape[1 - outputs] != channels:
        raise ValueError(f"{name} expects {layer[0].shape[1 - outputs]} channels, gets {channels}.")
    _convolutions.check_same(x, **{name: layer[0], f"{name}'s bias": layer[1]})


def _fake(x, labels, tensors, convolutions, flows, averaged):
    return x.new_empty(x.shape[0], 2 * x.shape[2], 2 * x.shape[3], dtype=torch.float32)


declare(
    "mask_branch(Tensor x, Tensor labels, Tensor[] tensors, int[] convolutions, bool[] flows, int[] averaged) "
    "-> Tensor",
    _fake,
    native=False,
    triton="mask_branch",
)
