"""A whole mask head beside torchvision's, and HTC's three with their flows beside PyTorch's layers."""

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from benchmarks import matrix
from benchmarks.bench_conv3x3_relu import DTYPES, layer
from benchmarks.cases import grid, select
from htc_fast import ops
from htc_fast.device import autocast

CLASSES = 80
HEAD = [(100, "float32"), (10, "float32"), (100, "bfloat16")]
THREE = [(100, "float32"), (100, "bfloat16")]
QUICK = [(count, "bfloat16") for count in (10, 100, 800)]


def head(draw, flow: bool, dtype: torch.dtype) -> ops.MaskHeadWeights:
    """Channels-last, as a model of ours keeps them."""
    channels = draw.channels(256)

    def one(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw.normal(*shape, dtype=dtype, scale=channels**-0.5), draw.normal(channels, dtype=dtype)

    last = draw.normal(CLASSES, channels, 1, 1, dtype=dtype, scale=0.1), draw.normal(CLASSES, dtype=dtype)
    convolutions = tuple(layer(draw, 256, dtype) for _ in range(4))
    into = one(channels, channels, 1, 1) if flow else None
    return ops.MaskHeadWeights(convolutions, one(channels, channels, 2, 2), last, into)


@torch.no_grad()
@pytest.mark.parametrize(("count", "dtype"), grid(HEAD, (10, 100, 512), DTYPES), indirect=["dtype"])
def bench_one_head(compare, draw, device, count, dtype):
    weights, channels = head(draw, False, dtype), draw.channels(256)
    theirs = MaskRCNNHeads(channels, (channels,) * 4, 1), MaskRCNNPredictor(channels, channels, CLASSES)
    modules = [one.to(device, dtype) for one in theirs]
    into = ops.mask_head_weights(*modules)
    for target, source in zip(tensors(into), tensors(weights)):
        target.copy_(source)
    x = draw.normal(draw.count(count), channels, 14, 14, dtype=dtype)
    plain, rows = x.contiguous(), torch.arange(len(x), device=device)
    labels = rows % CLASSES
    calls = {
        "htc_fast": lambda: ops.mask_branch(x, labels, [weights]),
        "torchvision": lambda: modules[1](modules[0](plain)).sigmoid()[rows, labels],
    }
    matrix.run(compare, f"one head, {count} detections", calls, "mask_branch", dtype)


def tensors(weights: ops.MaskHeadWeights) -> list[torch.Tensor]:
    return [one for layer in (*weights.convolutions, weights.upsample, weights.logits) for one in layer]


@torch.no_grad()
@pytest.mark.parametrize(("count", "dtype"), grid(THREE, (10, 100, 512), DTYPES, quick=QUICK), indirect=["dtype"])
def bench_three_heads(compare, draw, device, count, dtype):
    heads = [head(draw, number > 0, dtype) for number in range(3)]
    x = draw.normal(draw.count(count), draw.channels(256), 14, 14, dtype=dtype)
    rows = torch.arange(len(x), device=device)
    labels = rows % CLASSES

    def layers():
        found, previous = [], None
        for one in heads:
            here = x if one.flow is None else x + conv2d(previous, *one.flow).relu_()
            for weight, bias in one.convolutions:
                here = conv2d(here, weight, bias, padding=1).relu_()
            previous = here
            logits = conv2d(conv_transpose2d(here, *one.upsample, stride=2).relu_(), *one.logits)
            found.append(logits[rows, labels].float().sigmoid())
        return torch.stack(found).mean(dim=0)

    calls = matrix.everyone(draw, dtype, lambda: ops.mask_branch(x, labels, heads), layers)
    matrix.run(compare, f"three heads with flows, {count} detections", calls, "mask_branch", dtype)


@pytest.mark.parametrize("count", select([], [(128,), (384,)]))
def bench_training(compare, draw, device, count):
    """Forward and backward of a head from float32 weights under bf16 autocast, as in a training step."""
    x = draw.normal(draw.count(count), draw.channels(256), 14, 14, dtype=torch.bfloat16).requires_grad_()
    leaves = [x, *(one.requires_grad_() for one in tensors(head(draw, False, torch.float32)))]
    *convolutions, upsample, logits = list(zip(leaves[1::2], leaves[2::2]))

    def ours():
        with autocast(device, True):
            y = x
            for weight, bias in convolutions:
                y = ops.conv3x3_relu(y, weight, bias)
            return ops.mask_predict(y, *upsample, *logits)

    def layers():
        with autocast(device, True):
            y = x
            for weight, bias in convolutions:
                y = conv2d(y, weight, bias, padding=1).relu()
            return conv2d(conv_transpose2d(y, *upsample, stride=2).relu(), *logits)

    mine, theirs = matrix.steps(leaves, ours, layers)
    case = f"a head forward and backward under autocast, {count} RoIs"
    calls = {"htc_fast": mine, "PyTorch": theirs}
    # ReLUs near zero open or close by rounding: PyTorch's own gradient is 0.09 off that in float64, and so is ours.
    matrix.run(compare, case, calls, "mask_predict", torch.bfloat16, tolerance=0.15)
