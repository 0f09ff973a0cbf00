"""mask_flow: x + relu(1x1(m))."""

import pytest
import torch
from torch.autograd import forward_ad

from htc_fast import ops
from tests.ops.matrix_cases import (
    check_compile_and_export,
    compare,
    draw,
    is_channels_last,
    on_triton,
    over_torch,
    with_dtypes,
)


def leaves(count=3, channels=32, outputs=24, height=5, width=7):
    maps = [draw(count, outputs, height, width), draw(count, channels, height, width)]
    return [*maps, draw(outputs, channels, 1, 1, scale=0.3), draw(outputs)]


CASES = {
    "plain": leaves(),
    "odd channels": leaves(3, 19, 33, 6, 5),
    "RoI features": leaves(2, 64, 64, 14, 14),
    "one channel": leaves(2, 1, 1, 4, 4),
    "no maps": leaves(0),
    "nchw slices": [draw(3, 24, 10, 7)[:, :, ::2], draw(3, 32, 10, 7)[:, :, 1::2], *leaves()[2:]],
}


@pytest.mark.parametrize("name, dtype, column", with_dtypes("mask_flow", CASES))
def test_equals_reference(name, column, dtype):
    out = compare(ops.mask_flow, CASES[name], column, dtype)
    assert is_channels_last(out)


@pytest.mark.parametrize("column", over_torch("mask_flow"))
def test_small_relu_beside_large_x_keeps_its_gradient(column):
    """In 16 bits x + relu equals x where the relu is small: what was cut off cannot be read from the sum."""
    x, m, weight, bias = leaves()
    out = compare(ops.mask_flow, [x * 1000, m, weight * 1e-2, bias * 1e-2], column, torch.float16)
    assert (out.cpu() == (x * 1000).half()).float().mean() > 0.9


@pytest.mark.parametrize("column", over_torch("mask_flow"))
def test_compile_and_export(column):
    check_compile_and_export(ops.mask_flow, leaves(), column)


def test_gradcheck():
    assert torch.autograd.gradcheck(ops.mask_flow, [one.double().requires_grad_() for one in leaves(2, 3, 2, 2, 2)])


@pytest.mark.parametrize("column", on_triton("mask_flow"))
def test_opcheck(column):
    given = [one.to(column.device).requires_grad_() for one in leaves()]
    torch.library.opcheck(torch.ops.htc_fast_triton.mask_flow.default, tuple(given))
    _, *rest = (one.detach() for one in given)
    torch.library.opcheck(torch.ops.htc_fast_triton.mask_flow_backward.default, (given[0].detach(), *rest))


def test_errors():
    x, m, weight, bias = leaves()
    for arguments, said in (((x[:2], m), r"x must be \[3, 24, 5, 7\]"), ((x, m[:, :4]), "m must have 32 channels")):
        with pytest.raises(ValueError, match=said):
            ops.mask_flow(*arguments, weight, bias)
    with pytest.raises(ValueError, match=r"weight must be \[O, C, 1, 1\]"):
        ops.mask_flow(x, m, weight.expand(-1, -1, 3, 3), bias)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_tangent_comes_through_on_a_cpu(enabled):
    """Without gradients a convolution in one pass takes over, which has no tangent."""
    given = draw(2, 8, 6, 6), draw(2, 8, 6, 6, seed=1), draw(8, 8, 1, 1, seed=2), draw(8, seed=3)
    tangents = []
    for backend in ("cpp", "reference"):
        with ops.use_backend(backend), forward_ad.dual_level(), torch.set_grad_enabled(enabled):
            dual = [forward_ad.make_dual(one, one.flip(0)) for one in given]
            tangents.append(forward_ad.unpack_dual(ops.mask_flow(*dual)).tangent.clone())
    torch.testing.assert_close(*tangents, rtol=1e-3, atol=1e-3)
    assert tangents[1].abs().max() > 0.1
