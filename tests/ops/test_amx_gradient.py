"""The matrix unit's gradient of 3x3 weights beside torch's in float64, at sizes that no tile divides."""

import pytest
import torch

from htc_fast.ops import amx
from tests.ops.test_amx import NONE

pytestmark = pytest.mark.skipif(not amx._ready(), reason=NONE)
# images, C, O, height, width
CASES = {
    "whole tiles": (1, 32, 32, 8, 31),
    "odd sides": (2, 96, 64, 7, 13),
    "one pixel": (3, 32, 64, 1, 1),
    "a row": (1, 64, 32, 1, 171),
    "a column": (2, 32, 32, 171, 1),
    "many small maps": (23, 64, 96, 14, 14),
    "several bands": (2, 32, 64, 61, 83),
    "rows longer than a band": (1, 32, 32, 3, 2300),
}


def inputs(case, layout=torch.channels_last):
    torch.manual_seed(0)
    count, channels, outputs, height, width = CASES[case]
    x, grad = torch.randn(count, channels, height, width), torch.randn(count, outputs, height, width)
    return x.bfloat16().contiguous(memory_format=layout), grad.bfloat16().contiguous(memory_format=layout)


def definition(x, grad):
    weight = x.new_empty(grad.shape[1], x.shape[1], 3, 3, dtype=torch.float64)
    geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    backward = torch.ops.aten.convolution_backward
    return backward(grad.double(), x.double(), weight, None, *geometry, [False, True, False])[1]


def check(x, grad):
    found, want = amx.weight_gradient(x, grad), definition(x, grad)
    assert found.dtype == torch.float32 and found.shape == want.shape
    assert (found - want).abs().max() < 1e-6 * want.abs().max()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_products_are_exact_and_sums_float32(case, layout):
    check(*inputs(case, layout))


def test_views_that_are_not_contiguous():
    x, grad = inputs("several bands")
    check(x[:, :, :-2:2, :-1], grad[:, 32:, 1:-1:2, 1:])
    check(x[:1].expand(5, -1, -1, -1), grad[:1, :32].flip(3).expand(5, -1, -1, -1))


@pytest.mark.parametrize("case", ["many small maps", "several bands"])
def test_the_number_of_threads_does_not_matter(case):
    x, grad = inputs(case)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(amx.weight_gradient(x, grad))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_memory_is_not_read_beyond_the_maps():
    around = [torch.full((4, 32, 9, 14), torch.nan).bfloat16() for _ in range(2)]
    for one in around:
        one[1:3] = torch.randn(2, 32, 9, 14)
    x, grad = (one.contiguous(memory_format=torch.channels_last)[1:3] for one in around)
    check(x, grad)


def test_not_a_number_shows():
    x, grad = inputs("odd sides")
    x[1, 5, 3, 4] = torch.nan
    found = amx.weight_gradient(x, grad).isnan()
    assert found[:, 5].all() and found.sum() == 64 * 9


def test_what_does_not_fit():
    x, grad = inputs("odd sides")
    for wrong in ((x.float(), grad.float()), (x[:, :48], grad), (x, grad[:, :33]), (x[:1], grad), (x[:0], grad[:0])):
        with pytest.raises(RuntimeError, match="amx_gradient: x"):
            amx.weight_gradient(*wrong)


def test_the_operator_keeps_torch_s_rules():
    torch.library.opcheck(torch.ops.htc_fast.amx_gradient.default, inputs("odd sides"))
