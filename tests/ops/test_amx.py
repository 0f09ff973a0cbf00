"""The matrix unit's 3x3 convolutions beside torch's, at sizes that no tile divides; where the processor has one."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops import amx, packed3x3, winograd

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
    "no maps": (0, 32, 32, 5, 5),
}


def inputs(case):
    torch.manual_seed(0)
    count, channels, outputs, height, width = CASES[case]
    x = torch.randn(count, channels, height, width).bfloat16()
    return x, (torch.randn(outputs, channels, 3, 3) / (3 * channels**0.5)).bfloat16(), torch.randn(outputs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_rounds_once(case, relu, layout):
    x, weight, bias = inputs(case)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    found = amx.convolution(x, amx.pack(weight), bias if relu else None, relu)
    want = F.conv2d(x.double(), weight.double(), bias.double() if relu else None, padding=1)
    want = want.relu() if relu else want
    assert found.dtype == torch.bfloat16 and found.shape == want.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), want, rtol=2**-8, atol=1e-5)


def test_the_number_of_threads_does_not_matter():
    x, weight, bias = inputs("more than a band")
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


def test_float32_weights_are_rounded_and_its_own_type_alone_is_taken():
    x, weight, bias = inputs("odd sides")
    exact = weight.float() + 1e-4
    assert torch.equal(amx.pack(exact), amx.pack(exact.bfloat16()))
    turned = exact.flip(2, 3).transpose(0, 1)
    last = exact.contiguous(memory_format=torch.channels_last)
    assert torch.equal(amx.pack(last), amx.pack(exact))
    assert torch.equal(amx.pack(exact, turned=True), amx.pack(turned.contiguous()))
    assert torch.equal(amx.pack(last, turned=True), amx.pack(turned.contiguous()))
    assert amx.pays(weight, torch.bfloat16) and not amx.pays(weight, torch.float32)
    assert not amx.pays(weight[:33], torch.bfloat16) and not amx.pays(weight[:, :48], torch.bfloat16)
    for wrong in ((x.float(), amx.pack(weight)), (x[:, :64], amx.pack(weight)), (x, amx.pack(weight)[:33])):
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
    assert packed3x3.pack(weight, torch.bfloat16).dtype == torch.bfloat16
    assert packed3x3.pack(weight, torch.float32).dtype == torch.float32
    assert not winograd.pays(weight, torch.bfloat16)


def test_operators_keep_torch_s_rules():
    x, weight, bias = inputs("odd sides")
    packed = torch.ops.htc_fast.amx_weights(weight, False)
    torch.library.opcheck(torch.ops.htc_fast.amx_weights.default, (weight, True))
    torch.library.opcheck(torch.ops.htc_fast.amx_convolution.default, (x, packed, bias, 64, True))
