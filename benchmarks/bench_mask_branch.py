"""A whole mask head beside torchvision's, and HTC's three with their flows beside PyTorch's layers."""

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from benchmarks import matrix
from benchmarks.bench_conv3x3_relu import DTYPES, layer
from benchmarks.cases import grid
from htc_fast import ops

CLASSES = 80
HEAD = [(10, "float32"), (100, "float32"), (100, "bfloat16")]
THREE = [(100, "float32"), (100, "bfloat16")]


def head(draw, flow: bool, dtype: torch.dtype) -> ops.MaskHeadWeights:
    """Channels-last, as a model of ours keeps them."""
    channels = draw.channels(256)
    one = lambda *shape: (draw.normal(*shape, dtype=dtype, scale=channels**-0.5), draw.normal(channels, dtype=dtype))  # noqa: E731
    last = draw.normal(CLASSES, channels, 1, 1, dtype=dtype, scale=0.1), draw.normal(CLASSES, dtype=dtype)
    return ops.MaskHeadWeights(tuple(layer(draw, 256, dtype) for _ in range(4)), one(channels, channels, 2, 2), last,
                               one(channels, channels, 1, 1) if flow else None)  # fmt: skip


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
@pytest.mark.parametrize(("count", "dtype"), grid(THREE, (10, 100, 512), DTYPES), indirect=["dtype"])
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

    calls = matrix.everyone(draw, device, dtype, lambda: ops.mask_branch(x, labels, heads), layers)
    matrix.run(compare, f"three heads with flows, {count} detections", calls, "mask_branch", dtype)
