"""Precise RoI pooling beside our reference in plain PyTorch; no current library has it."""

import pytest
import torch

from htc_fast import ops
from tests.inputs import SCALES, maps, proposals

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def plain(call):
    """The same call in plain PyTorch."""

    def run():
        with ops.use_backend("reference"):
            return call()

    return run


def close(ours, other, who):
    tolerance = 1e-4 if ours.dtype == torch.float32 else 2e-2
    largest = other.float().abs().max().item()
    torch.testing.assert_close(
        ours.float(), other.float(), rtol=tolerance, atol=tolerance * largest, msg=f"differs from {who}"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "size"), [(1000, 7), (100, 14)])
def bench_forward(compare, count, size, dtype):
    features, rois = maps(dtype=DTYPES[dtype]), proposals(count)
    call = lambda: ops.pr_roi_pool(features, rois, size, SCALES)  # noqa: E731
    moved = (sum(one.nbytes for one in features) + call().nbytes) / 1e9
    calls = {"htc_fast": call, "plain PyTorch": plain(call)}
    compare("pr_roi_pool", f"forward, {count} RoIs to {size}×{size}", calls, close, moved, dtype=dtype)


@pytest.mark.parametrize("to", ["maps", "boxes"])
def bench_backward(compare, to):
    features, rois = maps(), proposals(512)
    leaves = [one.requires_grad_() for one in features] if to == "maps" else [rois.requires_grad_()]

    def step():
        out = ops.pr_roi_pool(features, rois, 7, SCALES)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))[0]

    calls = {"htc_fast": step, "plain PyTorch": plain(step)}
    compare("pr_roi_pool", f"forward and backward to the {to}, 512 RoIs to 7×7", calls, close)
