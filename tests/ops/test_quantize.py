"""Floats to 8 bits beside the formula, in every layout and type."""

import pytest
import torch

from htc_fast.ops.quantize import quantize

SHAPES = {"maps": (2, 19, 5, 7), "rows": (3, 50), "fewer than a vector": (1, 3), "no maps": (0, 8, 4, 4)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero", [0, 128, 255])
def test_the_formula(shape, dtype, zero):
    torch.manual_seed(0)
    x = (torch.randn(SHAPES[shape]) * 3).to(dtype)
    exact = x.double() / 0.04 + zero
    found = quantize(x, 0.04, zero)
    assert found.dtype == torch.uint8 and found.shape == x.shape
    # Half a step, and what float32 leaves of it.
    assert ((found.double() - exact.clamp(0, 255)).abs() <= 0.5 + 1e-4).all()


def test_ties_go_to_the_even_number_and_what_is_no_number_to_zero():
    x = torch.tensor([[0.5, 1.5, 2.5, 1e30, -1e30, torch.nan, torch.inf, -torch.inf]])
    assert quantize(x, 1.0, 0).tolist() == [[0, 2, 2, 255, 0, 0, 255, 0]]


def test_maps_become_channels_last_and_views_are_read():
    x = torch.randn(2, 8, 6, 10)[:, ::2, 1:, ::3]
    found = quantize(x, 0.05, 100)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, quantize(x.contiguous(), 0.05, 100))


def test_the_operator_is_well_behaved():
    x = torch.randn(1, 4, 3, 5)
    assert torch.library.opcheck(torch.ops.htc_fast.quantize.default, (x, 0.1, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((None, 0.1, 0), TypeError, "x must be"),
        ((torch.ones(2, 3, dtype=torch.int32), 0.1, 0), TypeError, "x must be one of"),
        ((torch.ones(2, 3, 4), 0.1, 0), ValueError, r"x must be \[N, C, H, W\] or \[K, C\]"),
        ((torch.ones(2, 3), 0.0, 0), ValueError, "step must be above 0"),
        ((torch.ones(2, 3), 0.1, 256), ValueError, "zero 0 to 255"),
    ],
)
def test_what_it_does_not_take(arguments, error, says):
    with pytest.raises(error, match=says):
        quantize(*arguments)
