"""Whose the gradients of the matrix operators are, and that they are the same by each: kernels, cuDNN, cuBLAS.

Without a GPU torch's own convolution and matrix product on the CPU stand for the libraries.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode

from htc_fast import ops
from htc_fast.ops import _cudnn
from htc_fast.ops.triton import conv3x3_relu, gradients, mask_flow, mask_predict_backward, matrix, tma
from scripts.launch_recorder import pretending
from tests.ops.backends import INTERPRETED
from tests.ops.matrix_cases import compare, draw, note_launches, on_triton

HALF = torch.float16
CASES = {
    "3x3": (ops.conv3x3_relu, [draw(3, 32, 5, 7), draw(24, 32, 3, 3, scale=0.1), draw(24)], torch.float32),
    "3x3 with residual": (
        ops.conv3x3_relu,
        [draw(3, 19, 5, 7), draw(33, 19, 3, 3, scale=0.1), draw(33), draw(3, 33, 5, 7)],
        HALF,
    ),
    "one pixel": (ops.conv3x3_relu, [draw(4, 16, 1, 1), draw(8, 16, 3, 3, scale=0.1), draw(8)], torch.float32),
    "flow": (ops.mask_flow, [draw(3, 24, 5, 7), draw(3, 32, 5, 7), draw(24, 32, 1, 1, scale=0.3), draw(24)], HALF),
    "all classes": (
        ops.mask_predict,
        [draw(3, 32, 5, 7), draw(32, 24, 2, 2, scale=0.2), draw(24), draw(9, 24, 1, 1, scale=0.2), draw(9)],
        HALF,
    ),
}


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were started."""
    names = []
    note_launches(monkeypatch, names)
    return names


def use_library(monkeypatch, library):
    for module in (conv3x3_relu, mask_flow, mask_predict_backward):
        monkeypatch.setattr(module, "by_library", lambda x, forced: library)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("column", [one for one in on_triton("conv3x3_relu") if one.values[0] == INTERPRETED])
def test_libraries_give_the_same_gradients(name, column, launched, monkeypatch):
    call, leaves, dtype = CASES[name]
    use_library(monkeypatch, True)
    compare(call, leaves, column, dtype)
    assert "gate_kernel" in launched and "weight_gradient_kernel" not in launched


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_costs_none(frozen, library, column, launched, monkeypatch):
    call, leaves, _ = CASES["3x3"]
    given, asked = [one.to(column.device) for one in leaves], []
    whole = torch.ops.aten.convolution_backward
    use_library(monkeypatch, library)
    monkeypatch.setattr(gradients, "convolution_backward", lambda *some: (asked.append(some[-1]), whole(*some))[1])
    found = []
    for some in ([one for i, one in enumerate(given) if i != frozen], given):
        fresh = {id(one): one.detach().requires_grad_() for one in some}
        with ops.use_backend("triton"):
            out = call(*(fresh.get(id(one), one) for one in given))
        launched.clear()
        found.append(torch.autograd.grad(out.sum(), [fresh[id(one)] for one in some]))
        if len(some) == 2 and not library:
            assert ("weight_gradient_kernel" in launched) == (frozen == 0)
            assert ("product_kernel" in launched) == (frozen == 1)
    partly, wholly = found[0], [one for i, one in enumerate(found[1]) if i != frozen]
    for one, other in zip(partly, wholly, strict=True):
        torch.testing.assert_close(one, other, **({"rtol": 1e-3, "atol": 1e-3} if library else {"rtol": 0, "atol": 0}))
    assert asked == ([[frozen != 0, frozen != 1, False], [True, True, False]] if library else [])


@pytest.fixture
def gpu(monkeypatch):
    """Tensors that claim to be on a GPU; who does their gradients is noted."""
    made = []

    def backward(grad, x, weight, *rest):
        made.append("cudnn")
        return torch.empty_like(x), torch.empty_like(weight), None

    for module in (gradients, matrix, tma):
        monkeypatch.setattr(module, "launch", lambda kernel, *some, **more: made.append(kernel.fn.__name__))
    monkeypatch.setattr(gradients, "convolution_backward", backward)
    device = matrix.tile_for.__globals__["Device"]("a GPU", 132, 232448)
    for module in (gradients, matrix):
        monkeypatch.setattr(module, "device_of", lambda x: device)
    monkeypatch.setattr("htc_fast.ops.triton.tiles.device_of", lambda x: device)
    monkeypatch.setattr(_cudnn, "allowed", lambda: True)
    return made


def backward_of_a_3x3(count=None, forced=False):
    with pretending():
        x = torch.empty(3, 64, 6, 7, device="cuda", dtype=HALF)
        weight = torch.empty(64, 64, 3, 3, device="cuda", dtype=HALF)
        counts = None if count is None else torch.empty(1, device="cuda", dtype=torch.int32)
        return [one.shape for one in conv3x3_relu.conv3x3_relu_backward(x, x, x, weight, counts, forced=forced)]


OURS = ["gate_kernel", "product_kernel", "weight_gradient_kernel"]


def test_gradients_of_a_3x3_are_cudnn_s(gpu):
    backward_of_a_3x3()
    assert gpu == ["gate_kernel", "cudnn"]


def test_what_is_counted_or_forced_or_exact_is_ours(gpu, monkeypatch):
    backward_of_a_3x3(count=1)
    assert gpu == OURS
    backward_of_a_3x3(forced=True)
    assert gpu == 2 * OURS
    monkeypatch.setattr(_cudnn, "allowed", lambda: False)
    backward_of_a_3x3()
    assert gpu == 3 * OURS


@pytest.mark.parametrize("error", [RuntimeError("no engine"), torch.OutOfMemoryError("full")])
def test_what_cudnn_cannot_do_after_all_is_ours(error, gpu, monkeypatch):
    def fails(*some):
        raise error

    monkeypatch.setattr(gradients, "convolution_backward", fails)
    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(torch.OutOfMemoryError):
            backward_of_a_3x3()
    else:
        backward_of_a_3x3()
        assert gpu == OURS


@pytest.mark.parametrize("flag", ["deterministic", "enabled", "algorithms"])
def test_torch_s_flags_say_whether_cudnn_may(flag, monkeypatch):
    monkeypatch.setattr(torch._C, "_has_cudnn", True)
    assert _cudnn.allowed()
    if flag == "algorithms":
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            assert not _cudnn.allowed()
        finally:
            torch.use_deterministic_algorithms(before)
    else:
        with torch.backends.cudnn.flags(enabled=flag != "enabled", deterministic=flag == "deterministic"):
            assert not _cudnn.allowed()
    assert _cudnn.allowed()


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
@pytest.mark.parametrize("name", CASES)
def test_what_was_forced_is_known_to_the_gradient_whoever_asks_for_it(name, column, monkeypatch):
    """In another thread, and after the block in which it was."""
    call, leaves, _ = CASES[name]
    given, asked = [one.to(column.device).requires_grad_() for one in leaves], []
    for module in (conv3x3_relu, mask_flow, mask_predict_backward):
        monkeypatch.setattr(module, "by_library", lambda x, forced: asked.append(forced))
    with ops.use_backend("triton"):
        out = call(*given)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.autograd.grad, out.sum(), given).result()
    assert asked == [True]


class Seen(TorchDispatchMode):
    """Names of the operators that a program calls."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("column", on_triton("conv3x3_relu"))
def test_who_looks_on_sees_one_operator_and_the_same_results(column):
    call, leaves, _ = CASES["3x3"]
    given = [one.to(column.device).requires_grad_() for one in leaves]
    with ops.use_backend("triton"):
        out = call(*given)
        found = [out, *torch.autograd.grad(out.sum(), given)]
        with Seen() as seen:
            out = call(*given)
            again = [out, *torch.autograd.grad(out.sum(), given)]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
            call(*given)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    names = [name for name in seen.names if name.startswith("htc_fast")]
    assert names == ["htc_fast_triton.conv3x3_relu.default", "htc_fast_triton.conv3x3_relu_backward.default"]
    assert "htc_fast_triton::conv3x3_relu" in [one.key for one in profile.key_averages()]


@pytest.mark.parametrize("column", on_triton("mask_flow"))
def test_a_result_may_be_written_to(column):
    given = [one.to(column.device).requires_grad_() for one in CASES["flow"][1]]
    with ops.use_backend("triton"):
        out, same = ops.mask_flow(*given), ops.mask_flow(*given)
    found = torch.autograd.grad(out.mul_(2).sum(), given)
    assert all(torch.equal(one, 2 * other) for one, other in zip(found, torch.autograd.grad(same.sum(), given)))
