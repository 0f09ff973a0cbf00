"""Batch norms of which some rows are padding, against torch's own over the real rows alone."""

import pytest
import torch
from torch import nn

from htc_fast.models.convolution import Convolution, fold_norms
from htc_fast.models.norm import JointBatchNorm, normalise

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def made(kind, channels=5):
    torch.manual_seed(1)
    norm = kind(channels)
    with torch.no_grad():
        for one in (norm.weight, norm.bias, norm.running_mean):
            one.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def maps(count=6, channels=5, dtype=torch.float32, layout=torch.channels_last):
    torch.manual_seed(2)
    return (torch.randn(count, channels, 3, 4) * 2 + 1).to(dtype).contiguous(memory_format=layout)


def results(norm, x, grad, *rows):
    """The output, the gradients of input, weight and bias, and the running statistics."""
    norm.zero_grad()
    x = x.clone().requires_grad_()
    y = norm(x, *rows)
    y.backward(grad)
    return y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var


def test_alone_it_is_torch_s_own():
    x, grad = maps(), maps().flip(0)
    ours, theirs = made(JointBatchNorm), made(nn.BatchNorm2d)
    for _ in range(2):
        for one, other in zip(results(ours, x, grad), results(theirs, x, grad), strict=True):
            assert torch.equal(one, other)
    assert ours.state_dict().keys() == theirs.state_dict().keys() and ours.num_batches_tracked == 2
    ours.eval(), theirs.eval()
    assert torch.equal(ours(x, torch.zeros(6, dtype=torch.bool)), theirs(x))


REAL = {"some": [1, 0, 1, 1, 0, 0], "one": [0, 0, 0, 0, 1, 0], "all": [1] * 6}


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 4e-3)]
)
def test_padded_rows_weigh_nothing(real, layout, dtype, tolerance):
    rows, x, grad = torch.tensor(REAL[real]).bool(), maps(dtype=dtype, layout=LAYOUTS[layout]), maps(dtype=dtype)
    x[~rows] *= 100
    grad = (grad * rows[:, None, None, None]).contiguous()
    kind = torch.promote_types(dtype, torch.float32)
    ours, theirs = made(JointBatchNorm).to(kind), made(nn.BatchNorm2d).to(kind)
    found = results(ours, x, grad, rows)
    want = results(theirs, x[rows].to(kind), grad[rows].to(kind))
    assert found[0].dtype == found[1].dtype == dtype and found[4].dtype == kind
    assert found[1][~rows].abs().sum() == 0
    for one, other in zip((found[0][rows], found[1][rows], *found[2:]), want, strict=True):
        torch.testing.assert_close(one.to(kind), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [None, [True, False, True], [False] * 3])
def test_the_gradient_is_that_of_numbers_a_little_apart(rows):
    """Also that of a loss which looks at padded rows, which stand on the others' statistics."""
    norm, rows = JointBatchNorm(2).double(), None if rows is None else torch.tensor(rows)
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape).double().requires_grad_() for shape in ((3, 2, 2, 3), (2,), (2,)))

    def computed(x, weight, bias):
        # As a plain function of all three.
        norm._parameters.update(weight=weight, bias=bias)
        return normalise(norm, x, rows)

    assert torch.autograd.gradcheck(computed, (x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_to_count(dtype):
    for x, rows in (
        (maps(dtype=dtype), torch.zeros(6, dtype=torch.bool)),
        (maps(0, dtype=dtype), torch.zeros(0, dtype=torch.bool)),
        (maps(0, dtype=dtype), None),
    ):
        norm = made(JointBatchNorm)
        before = [one.clone() for one in norm.buffers()]
        y, *gradients, _, _ = results(norm, x, torch.ones_like(x), rows)
        assert y.shape == x.shape and all(one.isfinite().all() for one in (y, *gradients))
        torch.testing.assert_close(
            y.float(), x.float() * norm.weight[:, None, None] + norm.bias[:, None, None], rtol=0.02, atol=0.05
        )
        assert all(map(torch.equal, norm.buffers(), before))


def test_one_pixel_has_no_variance():
    """Torch's own stops at it; the deepest map of a small picture has no more."""
    norm, x = made(JointBatchNorm), torch.randn(1, 5, 1, 1)
    before = norm.running_var.clone()
    y, gradient, *_ = results(norm, x, torch.ones_like(x))
    torch.testing.assert_close(y.flatten(), norm.bias)
    assert gradient.abs().max() < 1e-4 and torch.equal(norm.running_var, before) and norm.num_batches_tracked == 0


def test_a_large_mean_costs_no_digits():
    x = maps() + 3000
    ours, theirs = made(JointBatchNorm), made(nn.BatchNorm2d)
    found, want = ours(x, torch.ones(6, dtype=torch.bool)), theirs.double()(x.double())
    torch.testing.assert_close(found.double(), want, rtol=1e-3, atol=1e-3)


def test_nan_in_a_padded_row_stays_there():
    rows, x = torch.tensor(REAL["some"]).bool(), maps()
    x[~rows] = torch.nan
    norm = made(JointBatchNorm)
    assert norm(x, rows)[rows].isfinite().all() and norm.running_var.isfinite().all()


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_weight_and_bias_with_the_norm_inside(kernel):
    torch.manual_seed(0)
    conv, x = Convolution(4, 5, kernel, norm=True), torch.randn(2, 4, 6, 7)
    conv.norm = made(JointBatchNorm)
    plain = nn.Conv2d(4, 5, kernel, padding=kernel // 2, bias=False)
    plain.load_state_dict({"weight": conv.weight})
    assert conv.bias is None
    trained = nn.Sequential(plain, made(nn.BatchNorm2d))
    torch.testing.assert_close(conv(x), trained(x))  # statistics move
    conv.eval(), trained.eval()
    want = trained(x)
    torch.testing.assert_close(conv(x), want, rtol=1e-5, atol=1e-5)
    low = conv.folded()[0].bfloat16()
    assert torch.equal(low, conv.bfloat16().folded()[0]) or (low - conv.folded()[0]).abs().max() < 0.05
    conv.float(), conv.weight.copy_(plain.weight), conv.norm.load_state_dict(trained[1].state_dict())
    fold_norms(conv)
    assert conv.norm is None and conv.state_dict().keys() == {"weight", "bias"}
    torch.testing.assert_close(conv(x), want, rtol=1e-5, atol=1e-5)
    assert Convolution(4, 5, kernel).state_dict().keys() == {"weight", "bias"}
