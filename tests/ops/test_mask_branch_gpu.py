"""mask_branch in Triton where only a GPU can show it: captured, replayed, and nothing waits."""

import pytest
import torch

from htc_fast import ops
from htc_fast.ops import MaskHeadWeights
from tests.ops.backends import TRITON, columns, run_without_waiting
from tests.ops.test_conv3x3_relu_gpu import CHANNELS, draw, error

pytestmark = [pytest.mark.gpu, *columns("mask_branch", (TRITON,))[0].marks]
CLASSES = 80


def head(flow: bool, dtype) -> MaskHeadWeights:
    def layer(*shape: int, outputs: int = CHANNELS):
        return draw(*shape, dtype=dtype, scale=0.02), draw(outputs, dtype=dtype)

    return MaskHeadWeights(
        tuple(layer(CHANNELS, CHANNELS, 3, 3) for _ in range(4)),
        layer(CHANNELS, CHANNELS, 2, 2),
        layer(CLASSES, CHANNELS, 1, 1, outputs=CLASSES),
        layer(CHANNELS, CHANNELS, 1, 1) if flow else None,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_branch_is_captured_and_replayed(dtype):
    torch.manual_seed(0)
    x, labels = draw(100, CHANNELS, 14, 14, dtype=dtype), torch.randint(-1, CLASSES, (100,), device="cuda")
    heads = [head(t > 0, dtype) for t in range(3)]
    with ops.use_backend("triton"):
        ops.mask_branch(x, labels, heads)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = ops.mask_branch(x, labels, heads)
    for seed in range(2):
        torch.manual_seed(seed)
        x.copy_(draw(*x.shape, dtype=dtype))
        labels.copy_(torch.randint(-1, CLASSES, (100,), device="cuda"))
        found.fill_(float("nan"))
        graph.replay()
        with ops.use_backend("reference"):
            wanted = ops.mask_branch(x, labels, heads)
        assert (found - wanted).abs().max() < 5e-2 and error(found, wanted) < 1e-2


def test_nothing_waits_for_the_device():
    x, labels = draw(20, CHANNELS, 14, 14), torch.randint(-1, CLASSES, (20,), device="cuda")
    heads, count = [head(t > 0, torch.bfloat16) for t in range(2)], torch.tensor([7, 10], device="cuda")
    levels = [draw(1, CHANNELS, h, w) for h, w in ((40, 64), (20, 32), (10, 16), (5, 8), (3, 4))]
    weights, biases = [draw(CHANNELS, CHANNELS, 1, 1) for _ in levels], [draw(CHANNELS) for _ in levels]

    def everything():
        masks = ops.mask_branch(x, labels, heads)
        return (
            masks,
            ops.conv3x3_relu(x, *heads[0].convolutions[0], count=count),
            ops.semantic_merge(levels, weights, biases),
        )

    with ops.use_backend("triton"):
        first = everything()  # compiled before it is watched
        again = run_without_waiting(everything)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
