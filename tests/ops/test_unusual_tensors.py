"""Tensors that are not simply the numbers in their memory: Triton's operators see what they stand for."""

import pytest
import torch

pytest.importorskip("triton")

from torch._dynamo import compiled_autograd
from torch.utils._pytree import tree_map_only

from htc_fast import ops
from tests.ops.matrix_cases import on_triton
from tests.ops.test_matrix_gradients import CASES


class Wrapped(torch.Tensor):
    """A tensor with no memory of its own, as quantised weights are."""

    @staticmethod
    def __new__(cls, inner):
        options = {"strides": inner.stride(), "dtype": inner.dtype, "device": inner.device}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **options)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(cls, lambda one: one.inner, (args, kwargs or {}))
        return operator(*args, **kwargs)


def places():
    for name in ("3x3 with residual", "flow", "all classes"):
        for place in range(len(CASES[name][1])):
            yield pytest.param(name, place, id=f"{name}, {place}")


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
@pytest.mark.parametrize(("name", "place"), list(places()))
@pytest.mark.parametrize("kind", [torch._neg_view, Wrapped], ids=["negated", "wrapped"])
def test_an_argument_is_what_it_stands_for(kind, name, place, column):
    call, leaves, _ = CASES[name]
    given = [one.to(column.device) for one in leaves]
    with ops.use_backend("triton"), torch.no_grad():
        plain = [*given[:place], -given[place] if kind is torch._neg_view else given[place], *given[place + 1 :]]
        unusual = [*given[:place], kind(given[place]), *given[place + 1 :]]
        assert torch.equal(call(*unusual), call(*plain))


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
@pytest.mark.parametrize("name", ["3x3", "flow", "all classes"])
def test_gradients_that_come_negated_or_in_batches(name, column):
    call, leaves, _ = CASES[name]
    given = [one.to(column.device).requires_grad_() for one in leaves]
    with ops.use_backend("triton"):
        out = call(*given)
        coming = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(0)).to(column.device)
        one_by_one = [torch.autograd.grad(out, given, each, retain_graph=True) for each in coming]
        negated = torch.autograd.grad(out, given, torch._neg_view(coming[0]), retain_graph=True)
        together = torch.autograd.grad(out, given, coming, is_grads_batched=True)
    for place, found in enumerate(together):
        torch.testing.assert_close(found, torch.stack([some[place] for some in one_by_one]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(negated[place], -one_by_one[0][place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_compiled_autograd_finds_the_gradient(column):
    call, leaves, _ = CASES["3x3"]
    given = [one.to(column.device).requires_grad_() for one in leaves]
    with ops.use_backend("triton"):
        want = torch.autograd.grad(call(*given).sum(), given)
        out = call(*given).sum()
        with compiled_autograd._enable(torch.compile(backend="eager")):
            out.backward()
    for one, grad in zip(given, want, strict=True):
        torch.testing.assert_close(one.grad, grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_infinite_numbers_stay_infinite(column):
    x, weight, bias = (one.clone() for one in CASES["3x3"][1])
    x[0, 3, 2, 2] = torch.inf
    with ops.use_backend("triton"), torch.no_grad():
        found = ops.conv3x3_relu(*(one.to(column.device) for one in (x, weight, bias))).cpu()
    want = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu()
    assert found.isinf().any() and torch.equal(found.isinf(), want.isinf()) and torch.equal(found.isnan(), want.isnan())
