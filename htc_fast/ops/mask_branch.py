"""The mask heads of a cascade, or of any detector, from RoI features to probabilities; for inference."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from htc_fast.ops import _backend, _convolutions
from htc_fast.ops.conv3x3_relu import conv3x3_relu
from htc_fast.ops.mask_flow import mask_flow
from htc_fast.ops.mask_predict import mask_predict
from htc_fast.ops.reference import mask_branch as reference

_backend.register_over_torch("mask_branch")
Layer = tuple[Tensor, Tensor]


class MaskHeadWeights(NamedTuple):
    """One mask head. Each layer is (weight, bias).

    convolutions  [O, C, 3, 3] each, followed by ReLU
    upsample      [C, O, 2, 2]  deconvolution with stride 2, followed by ReLU
    logits        [classes, C, 1, 1]
    flow          [C, C, 1, 1] or None: takes in the features of the head before
    """

    convolutions: tuple[Layer, ...]
    upsample: Layer
    logits: Layer
    flow: Layer | None = None


def mask_head_weights(*modules: nn.Module) -> MaskHeadWeights:
    """The weights of a head made of 3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution, in this order.

    modules  such as torchvision's mask_head and mask_predictor, or detectron2's and mmdetection's heads
    raises   ValueError if there are other convolutions, or not these
    """
    layers = [one for module in modules for one in module.modules() if isinstance(one, (nn.Conv2d, nn.ConvTranspose2d))]
    kinds = [(type(one).__name__, one.kernel_size[0]) for one in layers]
    if kinds != [("Conv2d", 3)] * (len(layers) - 2) + [("ConvTranspose2d", 2), ("Conv2d", 1)]:
        raise ValueError("expected 3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution, got "
                         f"{', '.join(f'{kind} {size}x{size}' for kind, size in kinds) or 'none'}.")  # fmt: skip
    *convolutions, upsample, logits = ((one.weight, one.bias) for one in layers)
    return MaskHeadWeights(tuple(convolutions), upsample, logits)


@torch.no_grad()
def mask_branch(
    x: Tensor, labels: Tensor, heads: Sequence[MaskHeadWeights], *, averaged: Sequence[int] | None = None
) -> Tensor:
    """Mean mask probability of the given class over the heads, each fed by the one before where it has a flow.

    x         [K, C, H, W]  RoI features that every head starts from
    labels    [K] integers; maps whose label is no class give zeros, and on a GPU tiles of nothing else cost nothing
    heads     in order; `mask_head_weights` takes them from other detectors' modules
    averaged  numbers of the heads whose probabilities are averaged; None: all
    returns   [K, 2H, 2W] float32; no gradient
    raises    ValueError, TypeError
    source    HTC, section 3.1 and figure 2
    """
    heads = list(heads)
    _check(x, labels, heads)
    averaged = sorted(set(range(len(heads)) if averaged is None else averaged))
    if not averaged or averaged[0] < 0 or averaged[-1] >= len(heads):
        raise ValueError(f"averaged must name some of the heads 0 to {len(heads) - 1}, got {averaged}.")
    heads = heads[: averaged[-1] + 1]
    backend = _backend.backend_for("mask_branch", x)
    if backend != "triton":
        steps = reference.STEPS if backend == "reference" else (conv3x3_relu, mask_flow, mask_predict)
        return reference.mask_branch(x, labels, heads, averaged, steps)
    tensors = [one for head in heads for layer in _layers(head) for one in layer]
    x, *tensors = _convolutions.autocast(x, *tensors)
    counts, flows = [len(head.convolutions) for head in heads], [head.flow is not None for head in heads]
    return torch.ops.htc_fast_triton.mask_branch(x, labels, tensors, counts, flows, averaged)


def _layers(head: MaskHeadWeights) -> list[Layer]:
    return [*([head.flow] if head.flow is not None else []), *head.convolutions, head.upsample, head.logits]


def _check(x: Tensor, labels: Tensor, heads: list[MaskHeadWeights]) -> None:
    if not heads:
        raise ValueError("heads must hold at least one MaskHeadWeights, got none.")
    _convolutions.check_maps("x", x)
    if labels.shape != x.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be [{len(x)}] integers, got {list(labels.shape)} {labels.dtype}.")
    for number, head in enumerate(heads):
        channels = x.shape[1]
        if head.flow is not None and number == 0:
            raise ValueError("heads[0] has a flow, but there is no head before it.")
        for layer in head.convolutions:
            _convolutions.check_weight(f"heads[{number}].convolutions", *layer, 3)
            if layer[0].shape[1] != channels:
                raise ValueError(f"heads[{number}].convolutions expects {layer[0].shape[1]} channels, gets {channels}.")
            channels = layer[0].shape[0]
        _convolutions.check_weight(f"heads[{number}].upsample", *head.upsample, 2, outputs=1)
        _convolutions.check_weight(f"heads[{number}].logits", *head.logits, 1)
        for layer in _layers(head):
            _convolutions.check_same(x, **{f"heads[{number}]": layer[0], f"heads[{number}]'s bias": layer[1]})
