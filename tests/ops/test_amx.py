"""The matrix unit's 1x1 and 3x3 convolutions beside torch's, at sizes that no tile divides, where there is one."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops import amx, packed_convolution, winograd

NONE = "the processor has no AMX, or the system or the compiler does not let us use it"
pytestmark = pytest.mark.skipif(not amx._ready(), reason=NONE)
# images, C, O, height, width
CASES = {
    "whole tiles": (1, 32, 32, 8, 32),
    "odd sides": (2, 96, 64, 7, 13),
    "one pixel": (3, 32, 32, 1, 1),
    "a row of two strips": (1, 64, 32, 1, 171),
    "two strips": (1, 32, 32, 5, 129),
    "a column": (2, 32, 32, 9, 1),
    "many small maps": (9, 64, 96, 14, 14),
    "more than a band": (1, 512, 32, 41, 67),
    "weights in several parts": (1, 1024, 1056, 3, 11),
    "past the caches": (1, 32, 96, 150, 147),
    "no maps": (0, 32, 32, 5, 5),
}


def inputs(case, kernel=3):
    torch.manual_seed(0)
    count, channels, outputs, height, width = CASES[case]
    x = torch.randn(count, channels, height, width).bfloat16()
    weight = torch.randn(outputs, channels, kernel, kernel) / (kernel * channels**0.5)
    return x, weight.bfloat16(), torch.randn(outputs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_rounds_once(case, kernel, relu, layout):
    x, weight, bias = inputs(case, kernel)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    found = amx.convolution(x, amx.pack(weight), bias if relu else None, relu)
    want = F.conv2d(x.double(), weight.double(), bias.double() if relu else None, padding=kernel // 2)
    want = want.relu() if relu else want
    assert found.dtype == torch.bfloat16 and found.shape == want.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), want, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_another_map_is_added_before_the_one_rounding(case, layout):
    x, weight, bias = inputs(case, 1)
    count, _, outputs, height, width = CASES[case]
    other = torch.randn(count, outputs, height, width).bfloat16().contiguous(memory_format=layout)
    before = other.clone()
    for relu in (False, True):
        found = amx.convolution(x, amx.pack(weight), bias, relu, other)
        want = F.conv2d(x.double(), weight.double(), bias.double()) + other.double()
        torch.testing.assert_close(found.double(), want.relu() if relu else want, rtol=2**-8, atol=1e-5)
    assert torch.equal(other, before)


def test_another_map_that_does_not_fit():
    x, weight, bias = inputs("odd sides", 1)
    other = torch.zeros(2, 64, 7, 13).bfloat16()
    wrong = [(weight, one) for one in (other.float(), other[:1], other[:, :32], other[:, :, 1:], other[..., 1:])]
    for given, one in [*wrong, (inputs("odd sides")[1], other)]:
        with pytest.raises(RuntimeError, match="amx_convolution: other must be"):
            amx.convolution(x, amx.pack(given), bias, True, one)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_number_of_threads_does_not_matter(kernel):
    x, weight, bias = inputs("more than a band", kernel)
    threads = torch.get_num_threads()
    several = amx.convolution(x, amx.pack(weight), bias, True)
    try:
        torch.set_num_threads(1)
        single = amx.convolution(x, amx.pack(weight), bias, True)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(several, single)


def test_not_a_number_stays_with_its_neighbours():
    x, weight, bias = inputs("more than a band")
    x[0, 3, 30, 41] = torch.nan
    found = amx.convolution(x, amx.pack(weight), bias, True).isnan()
    assert found[:, :, 29:32, 40:43].all() and found.sum() == 9 * 32
    found = amx.convolution(x, amx.pack(weight[:, :, :1, :1]), bias, True).isnan()
    assert found[:, :, 30, 41].all() and found.sum() == 32


def test_infinity_stays_with_its_pixel():
    x, weight, bias = inputs("odd sides", 1)
    x[1, :, 6, 12] = torch.inf
    found = amx.convolution(x, amx.pack(weight.abs()), bias, True).isinf()
    assert found[1, :, 6, 12].all() and found.sum() == 64


def test_memory_is_not_read_beyond_the_maps():
    around = torch.full((4, 32, 9, 15), torch.nan).bfloat16()
    around[1:3] = torch.randn(2, 32, 9, 15)
    x = around.contiguous(memory_format=torch.channels_last)[1:3]
    for kernel in (1, 3):
        weight = torch.randn(64, 32, kernel, kernel).bfloat16()
        assert torch.isfinite(amx.convolution(x, amx.pack(weight), None, False)).all()


def test_float32_weights_are_rounded_and_its_own_type_alone_is_taken():
    x, weight, bias = inputs("odd sides")
    exact = weight.float() + 1e-4
    assert torch.equal(amx.pack(exact), amx.pack(exact.bfloat16()))
    turned = exact.flip(2, 3).transpose(0, 1)
    last = exact.contiguous(memory_format=torch.channels_last)
    assert torch.equal(amx.pack(last), amx.pack(exact))
    assert torch.equal(amx.pack(exact, turned=True), amx.pack(turned.contiguous()))
    assert torch.equal(amx.pack(last, turned=True), amx.pack(turned.contiguous()))
    point = exact[:, :, 1:2, 2:]
    assert torch.equal(amx.pack(point), amx.pack(point.contiguous()))
    assert torch.equal(amx.pack(point, turned=True), amx.pack(point.transpose(0, 1).contiguous()))
    assert amx.pays(point, torch.bfloat16) and not amx.pays(exact[:, :, :2, :2], torch.bfloat16)
    assert amx.pays(weight, torch.bfloat16) and not amx.pays(weight, torch.float32)
    assert not amx.pays(weight[:33], torch.bfloat16) and not amx.pays(weight[:, :48], torch.bfloat16)
    of_288 = x[:, :32], amx.pack(torch.zeros(32, 288, 1, 1))  # as many weights as a 3x3 of 32 channels has
    for wrong in ((x.float(), amx.pack(weight)), (x[:, :64], amx.pack(weight)), (x, amx.pack(weight)[:33]), of_288):
        with pytest.raises(RuntimeError, match="amx_convolution: x must be"):
            amx.convolution(*wrong, bias, False)
    for wrong in (weight[:33], weight[:, :0]):
        assert not amx.pays(wrong, torch.bfloat16)
        with pytest.raises(RuntimeError, match="amx_weights: weight must be"):
            amx.pack(wrong)
    for dtype in (torch.float16, torch.float64):
        assert torch.equal(amx.pack(exact.to(dtype)), amx.pack(exact.to(dtype).float()))


def test_it_goes_before_winograd_in_bfloat16():
    weight = torch.randn(32, 32, 3, 3)
    assert packed_convolution.pack(weight, torch.bfloat16).dtype == torch.bfloat16
    assert packed_convolution.pack(weight, torch.float32).dtype == torch.float32
    assert not winograd.pays(weight, torch.bfloat16)


def test_operators_keep_torch_s_rules():
    x, weight, bias = inputs("odd sides")
    other = torch.zeros(2, 64, 7, 13).bfloat16()
    for one, added in ((weight, None), (weight[:, :, :1, :1], other)):
        packed = torch.ops.htc_fast.amx_weights(one, False)
        torch.library.opcheck(torch.ops.htc_fast.amx_weights.default, (one, True))
        torch.library.opcheck(torch.ops.htc_fast.amx_convolution.default, (x, packed, bias, added, 64, True))
