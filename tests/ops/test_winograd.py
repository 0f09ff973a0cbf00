"""Winograd's convolution beside torch's, at sizes that no tile divides, and where it is used by itself."""

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops import winograd

# images, C, O, height, width
CASES = {
    "whole tiles": (1, 32, 32, 8, 12),
    "odd sides": (2, 48, 64, 7, 13),
    "one pixel": (3, 16, 32, 1, 1),
    "a row": (1, 16, 32, 1, 70),
    "many small maps": (9, 64, 96, 14, 14),
    "more than a portion": (1, 16, 32, 61, 83),
    "no maps": (0, 16, 32, 5, 5),
}


def inputs(case, dtype=torch.float32):
    torch.manual_seed(0)
    count, channels, outputs, height, width = CASES[case]
    x = torch.randn(count, channels, height, width).to(dtype)
    return x, torch.randn(outputs, channels, 3, 3) / (3 * channels**0.5), torch.randn(outputs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_float32(case, relu, layout):
    x, weight, bias = inputs(case)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    found = winograd.convolution(x, winograd.pack(weight), bias, relu)
    want = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    want = want.relu() if relu else want
    assert found.is_contiguous(memory_format=torch.channels_last) and found.shape == want.shape
    # A direct float32 convolution comes to 1e-6.
    torch.testing.assert_close(found.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["odd sides", "many small maps"])
def test_bfloat16_rounds_once(case):
    x, weight, bias = inputs(case, torch.bfloat16)
    found = winograd.convolution(x, winograd.pack(weight), bias, False)
    want = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), want, rtol=2**-8, atol=2e-5)


def test_not_a_number_stays_in_its_tile_s_reach_and_shows():
    x, weight, _ = inputs("more than a portion")
    x[0, 3, 30, 41] = torch.nan
    found = winograd.convolution(x, winograd.pack(weight), None, False)
    assert found[:, :, 29:32, 40:43].isnan().all()
    assert found[:, :, :27].isfinite().all() and found[:, :, 34:].isfinite().all()
    assert winograd.convolution(x, winograd.pack(weight), None, True)[:, :, 29:32, 40:43].isnan().all()


def test_shapes_that_do_not_fit():
    x, weight, bias = inputs("whole tiles")
    with pytest.raises(ValueError, match="O a multiple of 32 and C of 16"):
        winograd.pack(weight[:31])
    packed = winograd.pack(weight)
    for wrong in ((x[:, :16], packed, bias), (x, packed[1:], bias), (x, packed, bias[1:]), (x.double(), packed, bias)):
        with pytest.raises((ValueError, TypeError), match=r"must be (of a weight|\[32\]|float32)"):
            winograd.convolution(*wrong, False)


def test_operators_keep_torch_s_rules():
    x, grad = torch.randn(1, 32, 9, 6), torch.randn(1, 64, 9, 6)
    torch.library.opcheck(torch.ops.htc_fast.winograd_gradient.default, (x, grad))
