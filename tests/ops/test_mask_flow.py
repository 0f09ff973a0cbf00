"""mask_flow: x + relu(1x1(m))."""

import pytest
import torch
from matrix_cases import BACKENDS, DEVICE, check_compile_and_export, compare, draw, is_channels_last, need, with_dtypes

from htc_fast import ops


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, dtype", with_dtypes(CASES))
def test_equals_reference(name, backend, dtype):
    out = compare(ops.mask_flow, CASES[name], backend, dtype)
    assert is_channels_last(out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_relu_beside_large_x_keeps_its_gradient(backend):
    """In 16 bits x + relu equals x where the relu is small: what was cut off cannot be read from the sum."""
    x, m, weight, bias = leaves()
    compare(ops.mask_flow, [x * 1000, m, weight * 1e-2, bias * 1e-2], backend, torch.float16)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile_and_export(backend):
    check_compile_and_export(ops.mask_flow, leaves(), backend)


def test_opcheck_and_gradcheck():
    assert torch.autograd.gradcheck(ops.mask_flow, [one.double().requires_grad_() for one in leaves(2, 3, 2, 2, 2)])
    need("triton")
    given = [one.to(DEVICE).requires_grad_() for one in leaves()]
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
