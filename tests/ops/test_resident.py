"""1x1 convolutions with a second map by programs that keep their weights: when they do, and what they make."""

from dataclasses import replace

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import INTERPRETING
from tests.ops.matrix_cases import compare, draw, on_triton

if not INTERPRETING and not torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter or a GPU", allow_module_level=True)

from htc_fast.ops.triton import matrix, resident, tiles
from htc_fast.ops.triton.epilogue import ALL, COUNTED, FLOW, GATE, LABELLED, NEAREST, RELU

H200 = tiles.Device("none", 132, 232448, True, True)
SHAPES = {
    "plain": (5, 64, 32, 14, 14),
    "odd channels": (3, 19, 33, 9, 11),
    "a map just as large as a tile": (5, 16, 32, 8, 8),
    "several parts": (2, 64, 300, 10, 13),
    "deep": (5, 300, 40, 9, 8),
}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Launches of the kernel, on a device that lets every program do several tiles."""
    taken, call = [], resident.product_resident

    def noted(*given):
        taken.append(given)
        call(*given)

    monkeypatch.setattr(matrix, "product_resident", noted)
    monkeypatch.setattr(matrix, "device_of", lambda x: replace(H200, processors=2, tma=False))
    return taken


def leaves(count, channels, outputs, height, width, other=None):
    weight = draw(outputs, channels, 1, 1, scale=channels**-0.5)
    extra = draw(count, outputs, *(other or (height, width)), seed=3)
    return [draw(count, channels, height, width), weight, draw(outputs), extra]


@pytest.mark.parametrize("column", on_triton("mask_flow"))
@pytest.mark.parametrize("name", SHAPES)
def test_flow(name, column, taken):
    call = lambda x, weight, bias, extra: ops.mask_flow(extra, x, weight, bias)  # noqa: E731
    compare(call, leaves(*SHAPES[name]), column, torch.float16)
    assert taken


@pytest.mark.parametrize("column", on_triton("mask_flow"))
@pytest.mark.parametrize("relu", [True, False])
def test_residual(relu, column, taken):
    x, weight, bias, extra = (one.to(column.device, torch.float16) for one in leaves(*SHAPES["odd channels"]))
    with ops.use_backend(column.backend):
        out = matrix.product(x, weight, 33, (1, 19, 19), 1, RELU if relu else matrix.SUM, bias, extra)
    wanted = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double()) + extra.double()
    torch.testing.assert_close(out.double(), wanted.relu() if relu else wanted, rtol=4e-3, atol=4e-3)
    assert taken


@pytest.mark.parametrize("column", on_triton("mask_flow"))
@pytest.mark.parametrize("size", [(5, 7), (4, 5), (10, 14), (1, 1), (23, 3)])
def test_nearest(size, column, taken):
    given = leaves(3, 16, 40, 10, 14, other=size)
    x, weight, bias, extra = (one.to(column.device, torch.float16) for one in given)
    out = matrix.product(x, weight, 40, (1, 16, 0), 1, NEAREST, bias, extra)
    wanted = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double())
    wanted += torch.nn.functional.interpolate(extra.double(), size=(10, 14), mode="nearest")
    torch.testing.assert_close(out.double(), wanted, rtol=4e-3, atol=4e-3)
    assert taken


@pytest.mark.parametrize("column", on_triton("mask_flow"))
def test_maps_without_a_label_give_zeros(column, taken):
    x, weight, bias, extra = (one.to(column.device, torch.float16) for one in leaves(6, 16, 32, 9, 9))
    labels = torch.tensor([3, -1, 0, 2, -1, -1], device=column.device)
    x[labels < 0] = torch.nan
    out = matrix.product(x, weight, 32, (1, 16, 0), 1, FLOW, bias, extra, labels, LABELLED)
    wanted = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double()).relu() + extra.double()
    wanted[labels < 0] = 0
    torch.testing.assert_close(out.double(), wanted, rtol=4e-3, atol=4e-3)
    assert taken


def meta(count, channels, height, width, dtype=torch.bfloat16):
    return torch.empty(count, channels, height, width, dtype=dtype, device="meta")


def test_plans():
    lateral = resident.plan_for(meta(1, 256, 200, 336), 256, NEAREST, ALL, H200)
    assert lateral == resident.Plan(64, 256, 256, 132)
    assert resident.plan_for(meta(8, 512, 100, 168), 256, NEAREST, ALL, H200) == resident.Plan(64, 128, 512, 66)
    assert resident.plan_for(meta(100, 256, 14, 14), 256, FLOW, LABELLED, H200) == lateral
    assert resident.plan_for(meta(1, 128, 100, 168), 512, RELU, ALL, H200) == resident.Plan(64, 256, 128, 66)


@pytest.mark.parametrize(
    "x, epilogue, wanted, device",
    [
        (meta(1, 1024, 50, 84), NEAREST, ALL, H200),  # more weights than there is room for
        (meta(10, 256, 14, 14), FLOW, ALL, H200),  # too few tiles
        (meta(1000, 256, 7, 7), FLOW, ALL, H200),  # maps smaller than a tile
        (meta(1, 256, 200, 336, torch.float32), NEAREST, ALL, H200),
        (meta(1, 256, 200, 336), GATE, ALL, H200),
        (meta(1, 256, 200, 336), RELU, COUNTED, H200),
        (meta(1, 256, 20000, 3), NEAREST, ALL, H200),
        (meta(1, 256, 4000, 4000), NEAREST, ALL, H200),  # offsets of more than 32 bits
        (meta(1, 256, 200, 336), NEAREST, ALL, replace(H200, shared=163 * 1024)),
        (meta(1, 256, 200, 336), NEAREST, ALL, replace(H200, resident=False)),
        (meta(1, 256, 200, 336), NEAREST, ALL, replace(H200, warpgroups=False)),
    ],
)
def test_others_are_left_to_the_other_kernel(x, epilogue, wanted, device):
    assert resident.plan_for(x, 256, epilogue, wanted, device) is None
