"""The mask branch and its parts beside torchvision's mask head: the same four convolutions, all classes at once."""

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from htc_fast import ops
from htc_fast.parts import watching
from htc_fast.profiling.ledger import Ledger
from tests.inputs import generator

CHANNELS, CLASSES = 256, 80


def same(ours, other, who):
    error = (ours.float() - other.float()).norm() / other.float().norm()
    assert error < 1e-4, f"differs from {who} by {error:.2g}"


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0)).contiguous(memory_format=torch.channels_last)


def gflop(call) -> float:
    """Counted from the shapes, without running it again in the measurement."""
    with Ledger() as ledger, watching(ledger):
        call()
    return sum(need.flop for need in ledger.needs.values()) / 1e9


@torch.no_grad()
@pytest.mark.parametrize("count", [10, 100])
def bench_mask_branch(compare, count):
    torch.manual_seed(0)
    head, predictor = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, 1), MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES)
    x, labels = draw(count, CHANNELS, 14, 14), torch.arange(count) % CLASSES
    plain, rows = x.contiguous(), torch.arange(count)
    last = {"memory_format": torch.channels_last}
    weights = ops.mask_head_weights(head, predictor)
    ours = ops.MaskHeadWeights(
        tuple((weight.contiguous(**last), bias) for weight, bias in weights.convolutions),
        (weights.upsample[0].contiguous(**last), weights.upsample[1]),
        weights.logits,
    )
    calls = {
        "htc_fast": lambda: ops.mask_branch(x, labels, [ours]),
        "torchvision": lambda: predictor(head(plain)).sigmoid()[rows, labels],
    }
    work = gflop(calls["htc_fast"])
    compare("matrix", f"mask head, {count} detections", calls, same, gflop=work, backend="oneDNN")


@torch.no_grad()
def bench_semantic_merge(compare):
    levels = [draw(1, CHANNELS, h, w) for h, w in ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))]
    weights, biases = [draw(CHANNELS, CHANNELS, 1, 1) * 0.1 for _ in levels], [torch.zeros(CHANNELS) for _ in levels]
    plain = [one.contiguous() for one in levels]

    def layers():
        sized = [interpolate(one, size=(100, 168), mode="bilinear", align_corners=True) for one in plain]
        parts = zip(sized, weights, biases)
        return sum(torch.nn.functional.conv2d(one, weight, bias).relu() for one, weight, bias in parts)

    calls = {"htc_fast": lambda: ops.semantic_merge(levels, weights, biases), "PyTorch, NCHW": layers}
    work = gflop(calls["htc_fast"])
    compare("matrix", "semantic_merge, 800×1344", calls, same, gflop=work, backend="oneDNN")
