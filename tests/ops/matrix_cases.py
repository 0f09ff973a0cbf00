"""What the tests of the matrix operators share: inputs, and a comparison with the reference in float64."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, INTERPRETED, REFERENCE, TRITON, Column, cases, columns, convolutions_in

OVER_TORCH = (CPP, CUDA, INTERPRETED, TRITON)
ON_TRITON = (INTERPRETED, TRITON)
# 16-bit results are rounded once or, through torch, at every step; gradients sum over many pixels.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def with_dtypes(operator: str, named: dict) -> list:
    """Case, dtype and column: every case in float32, the first two in 16 bits too, since the interpreter is slow."""
    some = [(name, torch.float32) for name in named]
    some += [(name, dtype) for name in list(named)[:2] for dtype in DTYPES[1:]]
    return [
        pytest.param(name, dtype, one.values[1], id=f"{name}-{str(dtype)[6:]}-{one.values[1].name}", marks=one.marks)
        for name, dtype in some
        for one in cases(operator, [name], OVER_TORCH, lambda _, column, dtype=dtype: wrong(column, dtype))
    ]


def over_torch(operator: str) -> list:
    return columns(operator, OVER_TORCH)


def on_triton(operator: str) -> list:
    return columns(operator, ON_TRITON)


def wrong(column: Column, dtype: torch.dtype) -> str | None:
    is_wrong = column == INTERPRETED and dtype == torch.bfloat16
    return "Triton's interpreter gets bfloat16 wrong" if is_wrong else None


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale


def run(call: Callable, leaves: list[Tensor], column: Column, grad: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Output and the gradients of all leaves."""
    leaves = [one.detach().requires_grad_() for one in leaves]
    with ops.use_backend(column.backend):
        out = call(*leaves)
    if grad is None:
        return out, []
    return out, list(torch.autograd.grad(out, leaves, grad.to(out)))


def compare(call: Callable, leaves: list[Tensor], column: Column, dtype=torch.float32, backward: bool = True) -> Tensor:
    """Output of `column`, after it and its gradients were found equal to the reference's in float64."""
    given = [one.to(column.device, dtype) for one in leaves]
    wanted, _ = run(call, [one.double() for one in given], REFERENCE, None)
    grad = draw(*wanted.shape, seed=9).to(column.device, dtype) if backward else None
    wanted, wanted_grads = run(call, [one.double() for one in given], REFERENCE, grad)
    with convolutions_in("ieee"):
        out, grads = run(call, given, column, grad)
    close(out, wanted, TOLERANCE[dtype])
    for found, expected in zip(grads, wanted_grads):
        assert found.dtype == dtype and found.shape == expected.shape
        close(found, expected, 4 * TOLERANCE[dtype])
    return out


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    found, wanted = found.double(), wanted.double()
    size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    if tolerance > 1e-3 and wanted.numel():
        # In 16 bits a ReLU near zero may open or close by rounding, which changes a few gradients altogether.
        error = (found - wanted).abs()
        assert found.isfinite().all() and error.norm() <= 0.2 * max(wanted.norm().item(), 1.0)
        assert (error <= tolerance * size).double().mean() > 0.8
        return
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * size)


@contextlib.contextmanager
def torch_told_to_repeat(column: Column) -> Iterator[None]:
    """Where cuDNN does the work, gradients are the same at every call if torch is told so; elsewhere always."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if column == CUDA:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check_deterministic(call: Callable, leaves: list[Tensor], column: Column) -> None:
    """Output and gradients equal to the last bit, twice."""
    leaves = [one.to(column.device) for one in leaves]
    grad = draw(*run(call, leaves, column, None)[0].shape, seed=5).to(column.device)
    (out, grads), (other, others) = run(call, leaves, column, grad), run(call, leaves, column, grad)
    assert torch.equal(out, other) and all(torch.equal(one, again) for one, again in zip(grads, others))


def is_channels_last(maps: Tensor) -> bool:
    return not maps.numel() or maps.is_contiguous(memory_format=torch.channels_last)


def check_compile_and_export(call: Callable, leaves: list[Tensor], column: Column) -> None:
    """The same output and gradients compiled in one graph, and the same output exported."""
    leaves = [one.to(column.device) for one in leaves]
    torch.compiler.reset()  # else the graph of the column before, which no guard tells from this one's

    class Module(torch.nn.Module):
        def forward(self, *given):
            return call(*given)

    with ops.use_backend(column.backend):
        compiled = torch.compile(Module(), backend="aot_eager", fullgraph=True)
        exported = torch.export.export(Module(), tuple(leaves)).module()
    want, grads = run(call, leaves, column, grad := draw(*call(*leaves).shape).to(column.device))
    got, compiled_grads = run(compiled, leaves, column, grad)
    for one, other in zip([want, *grads], [got, *compiled_grads]):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    # No backend is forced on an exported program: cuDNN may do Triton's part, and rounds to TF32 in its own way.
    # Not above: torch.compile cannot read the flag that is set here.
    with convolutions_in("ieee"):
        torch.testing.assert_close(exported(*leaves), run(call, leaves, column, None)[0], rtol=1e-4, atol=1e-4)


def note_launches(monkeypatch: pytest.MonkeyPatch, names: list) -> None:
    """Write down the names of the matrix kernels that are started, as they are started."""
    from htc_fast.ops.triton import gradients, matrix, tma

    for module in (gradients, matrix, tma):
        put = lambda kernel, *some, launch=module.launch, **more: (  # noqa: E731
            names.append(kernel.fn.__name__),
            launch(kernel, *some, **more),
        )
        monkeypatch.setattr(module, "launch", put)
