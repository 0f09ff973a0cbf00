"""The matrix unit's gradients of 1x1 and 3x3 weights, and of biases, beside torch's in float64, at odd sizes."""

import pytest
import torch

from htc_fast.ops import amx
from tests.ops.test_amx import NONE

pytestmark = pytest.mark.skipif(not amx._ready(), reason=NONE)
KERNELS = pytest.mark.parametrize("kernel", [1, 3])
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
    "channels in several parts": (1, 2080, 32, 5, 53),
    "outputs in several parts": (1, 32, 2080, 5, 53),
}


def inputs(case, layout=torch.channels_last):
    torch.manual_seed(0)
    count, channels, outputs, height, width = CASES[case]
    x, grad = torch.randn(count, channels, height, width), torch.randn(count, outputs, height, width)
    return x.bfloat16().contiguous(memory_format=layout), grad.bfloat16().contiguous(memory_format=layout)


def definition(x, grad, kernel):
    weight = x.new_empty(grad.shape[1], x.shape[1], kernel, kernel, dtype=torch.float64)
    geometry = [1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1
    backward = torch.ops.aten.convolution_backward
    return backward(grad.double(), x.double(), weight, None, *geometry, [False, True, False])[1]


def check(x, grad, kernel):
    (found, bias), want = amx.gradients(x, grad, kernel, bias=True), definition(x, grad, kernel)
    torch.testing.assert_close(bias.double(), grad.double().sum((0, 2, 3)), rtol=1e-5, atol=1e-3)
    assert bias.dtype == found.dtype == torch.float32 and found.shape == want.shape
    assert (found - want).abs().max() < 2e-6 * want.abs().max()  # up to 25,000 products in a row


@KERNELS
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_products_are_exact_and_sums_float32(kernel, case, layout):
    check(*inputs(case, layout), kernel)


@KERNELS
def test_views_that_are_not_contiguous(kernel):
    x, grad = inputs("several bands")
    check(x[:, :, :-2:2, :-1], grad[:, 32:, 1:-1:2, 1:], kernel)
    check(x[:1].expand(5, -1, -1, -1), grad[:1, :32].flip(3).expand(5, -1, -1, -1), kernel)


@KERNELS
@pytest.mark.parametrize("case", ["many small maps", "several bands"])
def test_the_number_of_threads_does_not_matter(kernel, case):
    x, grad = inputs(case)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(amx.gradients(x, grad, kernel, bias=True))
    finally:
        torch.set_num_threads(threads)
    for more in found[1:]:
        assert all(map(torch.equal, found[0], more))


@KERNELS
def test_memory_is_not_read_beyond_the_maps(kernel):
    around = [torch.full((4, 32, 9, 14), torch.nan).bfloat16() for _ in range(2)]
    for one in around:
        one[1:3] = torch.randn(2, 32, 9, 14)
    x, grad = (one.contiguous(memory_format=torch.channels_last)[1:3] for one in around)
    check(x, grad, kernel)


def test_not_a_number_shows():
    x, grad = inputs("odd sides")
    x[1, 5, 3, 4] = torch.nan
    for kernel in (1, 3):
        found, bias = amx.gradients(x, grad, kernel)
        assert bias.numel() == 0
        found = found.isnan()
        assert found[:, 5].all() and found.sum() == 64 * kernel**2


def test_what_does_not_fit():
    x, grad = inputs("odd sides")
    for wrong in ((x.float(), grad.float()), (x[:, :48], grad), (x, grad[:, :33]), (x[:1], grad), (x[:0], grad[:0])):
        with pytest.raises(RuntimeError, match="amx_gradient: x"):
            amx.gradients(*wrong, 3)
    with pytest.raises(RuntimeError, match="kernel 1 or 3"):
        amx.gradients(x, grad, 5)


def test_the_operator_keeps_torch_s_rules():
    for kernel in (1, 3):
        torch.library.opcheck(torch.ops.htc_fast.amx_gradient.default, (*inputs("odd sides"), kernel, kernel == 1))
