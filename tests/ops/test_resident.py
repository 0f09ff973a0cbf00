"""1x1 convolutions with a second map by programs that keep their weights: when they do, and what they make."""

from dataclasses import replace

import pytest
import torch

from tests.ops.backends import INTERPRETING
from tests.ops.matrix_cases import draw, on_triton

if not INTERPRETING and not torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter or a GPU", allow_module_level=True)

from htc_fast.ops.triton import matrix, resident, tiles
from htc_fast.ops.triton.epilogue import FLOW, GATE, NEAREST, RELU

H200 = tiles.Device("none", 132, 232448, True, True)
SHAPES = {
    "plain": (5, 64, 32, 14, 14),
    "odd channels": (3, 19, 33, 9, 11),
    "a map just as large as a tile": (5, 16, 32, 8, 8),
    "several parts": (2, 64, 300, 10, 13),
}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Launches of the kernel, on a device that lets every program do several tiles."""
    taken, call = [], resident.product_resident

    def noted(*given):
        taken.append(given)
        call(*given)

    monkeypatch.setattr(matrix, "product_resident", noted)
    monkeypatch.setattr(matrix, "device_of", lambda x: replace(H200, processors=1, tma=False))
    return taken


def leaves(count, channels, outputs, height, width, other=None):
    weight = draw(outputs, channels, 1, 1, scale=channels**-0.5)
    extra = draw(count, outputs, *(other or (height, width)), seed=3)
    return [draw(count, channels, height, width), weight, draw(outputs), extra]


def right(x, weight, bias, extra, nearest, column):
    """The kernel's own result beside the definition's in double precision."""
    x, weight, bias, extra = (one.to(column.device, torch.float16) for one in (x, weight, bias, extra))
    outputs, channels = weight.shape[:2]
    out = matrix.product(x, weight, outputs, (1, channels, channels), 1, NEAREST if nearest else RELU, bias, extra)
    wanted, extra = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double()), extra.double()
    if nearest:
        wanted += torch.nn.functional.interpolate(extra, size=wanted.shape[2:], mode="nearest")
    else:
        wanted = (wanted + extra).relu()
    torch.testing.assert_close(out.double(), wanted, rtol=4e-3, atol=4e-3)
    return out.isfinite().all()


@pytest.mark.parametrize("column", on_triton("mask_flow"))
@pytest.mark.parametrize("name", SHAPES)
def test_residual(name, column, taken):
    assert right(*leaves(*SHAPES[name]), False, column) and taken


@pytest.mark.parametrize("column", on_triton("mask_flow"))
@pytest.mark.parametrize("size", [(5, 7), (4, 5), (10, 14), (1, 1), (23, 3)])
def test_nearest(size, column, taken):
    assert right(*leaves(3, 16, 40, 10, 14, other=size), True, column) and taken


@pytest.mark.parametrize("column", on_triton("mask_flow"))
def test_deep_ones_with_the_nearest(column, taken):
    assert right(*leaves(5, 200, 300, 9, 8, other=(5, 4)), True, column) and taken


def meta(count, channels, height, width, dtype=torch.bfloat16):
    return torch.empty(count, channels, height, width, dtype=dtype, device="meta")


def test_plans():
    assert resident.plan_for(meta(1, 256, 200, 336), 256, NEAREST, H200) == resident.Plan(64, 256, 256, 132)
    assert resident.plan_for(meta(1, 64, 200, 336), 256, RELU, H200) == resident.Plan(64, 128, 64, 132, 4)


@pytest.mark.parametrize(
    "x, epilogue, device",
    [
        (meta(1, 512, 100, 168), NEAREST, H200),  # slower than the other
        (meta(8, 128, 100, 168), RELU, H200),
        (meta(100, 256, 14, 14), FLOW, H200),
        (meta(1, 256, 25, 42), NEAREST, H200),  # too few tiles
        (meta(10000, 64, 7, 7), RELU, H200),  # maps smaller than a tile
        (meta(1, 256, 200, 336, torch.float32), NEAREST, H200),
        (meta(1, 64, 200, 336), GATE, H200),
        (meta(1, 256, 20000, 3), NEAREST, H200),
        (meta(1, 256, 4000, 4000), NEAREST, H200),  # offsets of more than 32 bits
        (meta(1, 256, 200, 336), NEAREST, replace(H200, shared=163 * 1024)),
        (meta(1, 256, 200, 336), NEAREST, replace(H200, resident=False)),
        (meta(1, 256, 200, 336), NEAREST, replace(H200, warpgroups=False)),
    ],
)
def test_others_are_left_to_others(x, epilogue, device):
    assert resident.plan_for(x, 256, epilogue, device) is None
