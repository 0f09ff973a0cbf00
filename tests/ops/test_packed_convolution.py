"""3x3 and 1x1 convolutions in a faster form: where it is used by itself, with gradients, and when a weight changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from htc_fast import ops
from htc_fast.ops import amx, packed_convolution, winograd

NEEDS = pytest.mark.skipif(not amx._ready(), reason="1x1 ones need AMX")


def inputs():
    torch.manual_seed(0)
    return torch.randn(2, 48, 7, 13), torch.randn(64, 48, 3, 3) / (3 * 48**0.5), torch.randn(64)


def test_a_packed_weight_is_used_where_nothing_looks_on():
    x, weight, bias = inputs()
    want = F.conv2d(x, weight, bias, padding=1).relu()
    packed = packed_convolution.Packed(weight, winograd.pack(weight) * 2)  # twice, to be told apart
    with torch.no_grad():
        doubled = ops.conv3x3_relu(x, weight, bias, packed=packed)
    assert not torch.allclose(doubled, want, atol=0.1)
    torch.testing.assert_close(ops.conv3x3_relu(x, weight, bias, packed=packed), want, rtol=1e-5, atol=1e-5)
    weight.requires_grad_()
    ops.conv3x3_relu(x, weight, bias, packed=packed).sum().backward()
    assert weight.grad.abs().max() > 0


@pytest.mark.parametrize("change", ["in place", "moved", "another"])
@torch.no_grad()
def test_a_changed_weight_is_not_used_in_its_old_form(change):
    x, weight, bias = inputs()
    packed = packed_convolution.Packed(weight)
    if change == "in place":
        weight[0] += 1
    elif change == "moved":
        weight.data = weight * 2
    else:
        weight = weight.clone() - 1
    want = F.conv2d(x, weight, bias, padding=1).relu()
    torch.testing.assert_close(ops.conv3x3_relu(x, weight, bias, packed=packed), want, rtol=1e-4, atol=1e-4)


LEARNED = {
    "whole tiles": (1, 32, 32, 32, 48),
    "odd sides": (3, 64, 96, 19, 37),
    "many small maps": (33, 32, 64, 14, 14),
    "more than a portion": (1, 128, 64, 101, 163),
    "more outputs than a group": (1, 32, 288, 15, 14),
}


def gradients(case, dtype, relu, layout=torch.channels_last, kernel=3):
    """What `learned` gives, forward and backward, and the same in float64 by torch."""
    torch.manual_seed(1)
    count, channels, outputs, height, width = LEARNED[case]
    x = torch.randn(count, channels, height, width).to(dtype).contiguous(memory_format=layout).requires_grad_()
    weight = (torch.randn(outputs, channels, kernel, kernel) / (kernel * channels**0.5)).requires_grad_()
    bias = torch.randn(outputs).requires_grad_()
    exact = [one.detach().double().requires_grad_() for one in (x, weight, bias)]
    grad = torch.randn(count, outputs, height, width).to(dtype).contiguous(memory_format=layout)
    out = packed_convolution.learned(x, weight, bias, relu)
    want = F.conv2d(*exact, padding=kernel // 2)
    want = want * (out.detach() > 0) if relu else want
    found = [out.detach(), *torch.autograd.grad(out, (x, weight, bias), grad)]
    return found, [want.detach(), *torch.autograd.grad(want, exact, grad.double())]


@pytest.mark.parametrize("case", LEARNED)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_gradients_in_float32(case, relu, layout):
    for found, want in zip(*gradients(case, torch.float32, relu, layout), strict=True):
        assert found.dtype == torch.float32 and found.shape == want.shape
        apart = (found.double() - want).abs().max() / want.abs().max()
        assert apart < 1e-5  # a direct convolution comes to 1e-6


@pytest.mark.parametrize("kernel", [3, pytest.param(1, marks=NEEDS)])
@pytest.mark.parametrize("case", ["odd sides", "many small maps"])
def test_gradients_in_bfloat16_have_the_weight_s_own_type(kernel, case):
    found, wanted = gradients(case, torch.bfloat16, True, kernel=kernel)
    assert [one.dtype for one in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for one, want in zip(found, wanted, strict=True):
        assert (one.double() - want).abs().max() / want.abs().max() < 2**-7  # the weight is rounded too


@pytest.mark.parametrize("case", ["more than a portion", "more outputs than a group"])
def test_gradients_do_not_depend_on_the_number_of_threads(case):
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 13):
            torch.set_num_threads(count)
            found.append(gradients(case, torch.float32, True)[0][:3])  # the bias's sum is torch's own
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found[0], found[1])) and all(map(torch.equal, found[0], found[2]))


def test_the_result_may_be_written_to():
    x, weight = torch.ones(1, 32, 40, 40), torch.full((32, 32, 3, 3), -1.0, requires_grad=True)
    packed_convolution.learned(x, weight, None, False).relu_().sum().backward()
    assert weight.grad.count_nonzero() == 0


def test_only_gradients_that_are_asked_for():
    torch.manual_seed(2)
    x, weight = torch.randn(1, 32, 40, 40), torch.randn(32, 32, 3, 3, requires_grad=True)
    packed_convolution.learned(x, weight, None, True).sum().backward()
    assert x.grad is None and weight.grad.shape == weight.shape
    frozen = weight.detach()
    x.requires_grad_()
    packed_convolution.learned(x, frozen, None, False).sum().backward()
    want = torch.nn.grad.conv2d_input(x.shape, frozen, torch.ones(1, 32, 40, 40), padding=1)
    torch.testing.assert_close(x.grad, want, rtol=1e-4, atol=1e-3)


def test_a_second_derivative_is_torch_s():
    torch.manual_seed(3)
    x, weight = torch.randn(1, 32, 28, 28, requires_grad=True), torch.randn(32, 32, 3, 3, requires_grad=True)

    def penalty(out):
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight))

    found = penalty(packed_convolution.learned(x, weight, None, True))
    for one, want in zip(found, penalty(F.conv2d(x, weight, padding=1).relu()), strict=True):
        assert (one - want).abs().max() / want.abs().max() < 1e-4


@NEEDS
def test_a_second_derivative_of_a_1x1_is_torch_s():
    torch.manual_seed(3)
    x, weight = torch.randn(1, 32, 28, 28).bfloat16().requires_grad_(), torch.randn(32, 32, 1, 1, requires_grad=True)

    def penalty(out):
        (grad,) = torch.autograd.grad(out.float().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.float().square().sum(), weight)[0]

    found, want = penalty(packed_convolution.learned(x, weight, None, False)), penalty(F.conv2d(x, weight.bfloat16()))
    assert (found - want).abs().max() / want.abs().max() < 2**-7


def test_which_convolutions_are_direct():
    geometries = [{}, {"padding": 1}, {"stride": 2}, {"groups": 2}, {"dilation": 2}]
    assert [packed_convolution.direct(nn.Conv2d(4, 4, 1, **one)) for one in geometries] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert [packed_convolution.direct(nn.Conv2d(4, 4, 3, **one)) for one in geometries] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert not packed_convolution.direct(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    assert not packed_convolution.direct(nn.Conv2d(4, 4, (3, 1), padding=1)) and not packed_convolution.direct(
        nn.Conv2d(4, 4, (1, 3))
    )


def test_where_it_is_learned(monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda weight, dtype: dtype == torch.float32)
    monkeypatch.setattr(amx, "pays", lambda weight, dtype: False)
    monkeypatch.setattr(packed_convolution, "is_intel", lambda: False)
    x, weight = torch.randn(1, 32, 10, 20), torch.randn(32, 32, 3, 3, requires_grad=True)
    assert packed_convolution.learns(x, weight)
    assert not packed_convolution.learns(x[:, :, :9], weight), "too small"
    assert not packed_convolution.learns(x, weight[:, :16]), "the input's gradient takes outputs for channels"
    with torch.no_grad():
        assert not packed_convolution.learns(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not packed_convolution.learns(x, weight)
    monkeypatch.setattr(amx, "pays", lambda weight, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(winograd, "pays", lambda weight, dtype: False)
    point = weight[:, :, :1, :1]
    assert packed_convolution.learns(x.bfloat16(), point) and not packed_convolution.learns(x, point)
    seen = []
    torch.func.grad(lambda one: (seen.append(packed_convolution.learns(one, weight)), one.sum())[1])(x)
    with torch.autograd.forward_ad.dual_level():
        seen.append(packed_convolution.learns(x, weight))
    assert seen == [False, False]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="needs MKL")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_of_a_1x1_in_float32_are_products(relu, layout, monkeypatch):
    monkeypatch.setattr(packed_convolution, "is_intel", lambda: True)
    torch.manual_seed(4)
    x = torch.randn(2, 10, 11, 13).contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(7, 10, 1, 1, requires_grad=True), torch.randn(7, requires_grad=True)
    assert packed_convolution.learns(x, weight)
    out, want = packed_convolution.learned(x, weight, bias, relu), F.conv2d(x, weight, bias)
    want = want.relu() if relu else want
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, want)
    grad = torch.randn(2, 7, 11, 13)
    found = torch.autograd.grad(out, (x, weight, bias), grad, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(want, (x, weight, bias), grad), rtol=1e-4, atol=1e-4)
    (alone,) = torch.autograd.grad(out, weight, grad)
    assert torch.equal(alone, found[1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_a_second_derivative_of_products_sees_the_maps(layout, monkeypatch):
    monkeypatch.setattr(packed_convolution, "is_intel", lambda: True)
    torch.manual_seed(5)
    x = torch.randn(2, 5, 11, 13).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(7, 5, 1, 1, requires_grad=True)

    def penalty(out):
        grads = torch.autograd.grad(out.square().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in grads), (x, weight))

    found = penalty(packed_convolution.learned(x, weight, None, False))
    torch.testing.assert_close(found, penalty(F.conv2d(x, weight)), rtol=1e-4, atol=1e-2)


def test_what_nobody_takes_has_no_gradient():
    class Ignored(torch.autograd.Function):
        @staticmethod
        def forward(ctx, one, other):
            return one * 1

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    x, weight = torch.randn(1, 32, 20, 20), torch.randn(32, 32, 3, 3, requires_grad=True)
    leaf = torch.ones((), requires_grad=True)
    Ignored.apply(leaf, packed_convolution.learned(x, weight, None, True)).backward()
    assert leaf.grad == 1 and weight.grad is None


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_without_bias_learns(side, dtype):
    x = torch.randn(1, 64, 50, 50).to(dtype).requires_grad_()
    weight = torch.randn(64, 64, side, side).to(dtype).requires_grad_()
    if packed_convolution.learns(x, weight):
        out = packed_convolution.learned(x, weight, None, relu=False)
    else:  # a processor without the form
        out = nn.functional.conv2d(x, weight, padding=side // 2)
    out.float().sum().backward()
    assert weight.grad.shape == weight.shape and x.grad.abs().sum() > 0
