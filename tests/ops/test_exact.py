"""The reference's exponentials, by which all backends give the same bits, beside torch's in double precision."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from htc_fast.ops.reference import exact


def ulps(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (found.double() - wanted).abs() / (torch.nextafter(found, found * 2) - found).double()


def test_exponential_is_within_two_ulps():
    x = torch.cat([torch.linspace(-87.2, 88.7, 200_001), torch.randn(10_000), torch.zeros(1)])
    assert ulps(exact.exponential(x), x.double().exp()).max() < 2


def test_ends():
    given = torch.tensor([-torch.inf, -1e30, -88.0, 0.0, -0.0, 89.0, 1e30, torch.inf])
    assert exact.exponential(given).tolist() == [0, 0, 0, 1, 1, torch.inf, torch.inf, torch.inf]
    assert exact.exponential(torch.tensor([torch.nan])).isnan().all()
    assert exact.exponential(torch.empty(0, 3)).shape == (0, 3)
    assert exact.sigmoid(torch.tensor([0.0, 200.0, -200.0])).tolist() == [0.5, 1, 0]


@given(st.integers(1, 100), st.integers(0, 9), st.floats(0.1, 30))
def test_softmax_sums_to_one(columns, rows, spread):
    x = torch.randn(rows, 2, columns, generator=torch.Generator().manual_seed(columns)) * spread
    found = exact.softmax(x)
    assert found.shape == x.shape and (found.sum(dim=-1) - 1).abs().le(1e-6).all()
    assert torch.allclose(found.double(), x.double().softmax(dim=-1), rtol=2e-5, atol=2e-38)


def test_gradient_is_the_exponential():
    x = torch.linspace(-3, 3, 101).requires_grad_()
    (grad,) = torch.autograd.grad(exact.exponential(x).sum(), x)
    assert torch.allclose(grad, x.detach().exp(), rtol=1e-5)


def test_torch_s_own_stand_in_for_programs_of_other_runtimes():
    x = torch.linspace(-9, 9, 1001)
    ours = exact.exponential(x)
    with exact.as_torch():
        assert torch.equal(exact.exponential(x), x.exp()) and torch.equal(exact.sigmoid(x), x.sigmoid())
        assert torch.equal(exact.softmax(x), x.softmax(dim=-1))
    assert torch.equal(exact.exponential(x), ours) and not torch.equal(ours, x.exp())
