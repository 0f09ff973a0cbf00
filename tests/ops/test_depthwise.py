"""Depthwise convolutions with their activation on a CPU: results and gradients beside torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from htc_fast.ops import _native
from htc_fast.ops.depthwise import depthwise, takes

pytestmark = pytest.mark.skipif(not _native.loaded(), reason="needs the native library")
CASES = {
    "plain": (2, 32, 9, 13, 3, 1, (1, 1, 1, 1), 6.0),
    "large kernel": (1, 48, 8, 8, 5, 1, (2, 2, 2, 2), math.inf),
    "steps, padded on one side": (2, 16, 11, 6, 3, 2, (0, 1, 0, 1), 6.0),
    "steps of a large kernel": (1, 16, 12, 9, 5, 2, (1, 2, 2, 2), None),
    "long steps": (1, 16, 13, 11, 3, 3, (1, 1, 1, 1), 6.0),
    "a single pixel": (3, 16, 1, 1, 5, 1, (2, 2, 2, 2), None),
}


def drawn(case: str, dtype: torch.dtype) -> tuple:
    count, channels, height, width, kernel, stride, padding, high = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, height, width, channels, generator=generator).permute(0, 3, 1, 2).to(dtype)
    weight, bias = (
        torch.randn(channels, 1, kernel, kernel, generator=generator),
        torch.randn(channels, generator=generator),
    )
    return [one.requires_grad_() for one in (x, weight, bias)], stride, padding, high


def plain(x, weight, bias, stride, padding, high):
    top, bottom, left, right = padding
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, groups=len(weight))
    return y if high is None else y.clamp(0, high)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_torch(case, dtype):
    inputs, *geometry = drawn(case, dtype)
    assert takes(*inputs[:2])
    found = depthwise(*inputs, *geometry)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    wanted = plain(*exact, *geometry)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    # Where the activation is all but cut off, rounding decides: no gradient there.
    high = geometry[-1] or math.inf
    clear = (wanted.abs() > 0.05) & ((wanted - high).abs() > 0.05)
    grad = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape) * clear
    found.backward(grad.to(dtype))
    wanted.backward(grad)
    for one, other in zip(inputs, exact, strict=True):
        assert one.grad.dtype == one.dtype
        worst = float((one.grad.double() - other.grad).abs().max() / other.grad.abs().max())
        assert worst < tolerance


def test_gradients_are_the_same_bits_for_any_number_of_threads():
    inputs, *geometry = drawn("steps, padded on one side", torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(depthwise(*inputs, *geometry).square().sum(), inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_an_input_without_gradient_gets_none():
    (x, weight, bias), *geometry = drawn("plain", torch.float32)
    x = x.detach()
    depthwise(x, weight, bias, *geometry).sum().backward()
    assert x.grad is None and weight.grad.shape == weight.shape


def test_what_does_not_fit_is_refused():
    (x, weight, bias), stride, padding, high = drawn("plain", torch.float32)
    assert not takes(x, weight[:8]) and not takes(x.double(), weight) and not takes(x, weight.expand(-1, 2, -1, -1))
    with pytest.raises(ValueError, match=r"x must be \[N, C, H, W\]"):
        depthwise(x[:, :16], weight, bias, stride, padding, high)
    with pytest.raises(ValueError, match="must hold the kernel"):
        depthwise(x[:, :, :1, :1], weight, bias, stride, (0, 0, 0, 0), high)
    with pytest.raises(ValueError, match=r"weight must be \[C, 1, k, k\], k 3 or 5 and C a multiple of 16"):
        depthwise(x[:, :8], weight[:8], bias[:8], stride, padding, high)
    with pytest.raises(TypeError, match=r"x must be one of torch\.float32, torch\.bfloat16, got torch\.float64"):
        depthwise(x.double(), weight, bias, stride, padding, high)
    for steps, sides in ((0, padding), (stride, (-1, 1, 1, 1))):
        with pytest.raises(ValueError, match="stride must be positive and padding not negative"):
            depthwise(x, weight, bias, steps, sides, high)
