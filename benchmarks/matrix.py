"""What the benchmarks of convolutions share."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.cases import close
from htc_fast.profiling.meters import CostMeter
from htc_fast.ranges import watching


def words(count: int, channels: int) -> str:
    """The usual channels go without saying."""
    return f"{count} RoIs of 14×14" + ("" if channels == 256 else f", {channels} channels")


def everyone(draw, dtype: torch.dtype, ours: Callable, layers: Callable) -> dict:
    """Ours, and PyTorch's layers eager and compiled, over the same tensors."""
    return {"htc_fast": ours, "PyTorch": layers, "PyTorch, compiled": rivals.compiled(layers, draw, dtype)}


def steps(leaves: list[Tensor], *forwards: Callable | rivals.Absent) -> list[Callable | rivals.Absent]:
    """Forward and backward of each; whoever is absent stays so."""

    def step(forward):
        if isinstance(forward, rivals.Absent):
            return forward

        def run():
            out = forward()
            return torch.autograd.grad(out, leaves, torch.ones_like(out))[0]

        return run

    return [step(forward) for forward in forwards]


def run(
    compare,
    case: str,
    calls: dict,
    op: str,
    dtype: torch.dtype,
    inputs: tuple[Tensor, ...] = (),
    tolerance: float = 3e-2,
    exact: float = 1e-4,
) -> None:
    """Compare with operations counted from the shapes.

    inputs     what must be read besides the result
    tolerance  of results in 16 bits
    exact      of results in 32 bits
    """
    with CostMeter() as meter, watching(meter):
        out = calls["htc_fast"]()
    gflop = sum(need.flop for need in meter.needs.values()) / 1e9
    gigabytes = sum(one.nbytes for one in (*inputs, out)) / 1e9 if inputs else None
    check = close(exact if dtype == torch.float32 else tolerance, relative=True)
    compare(case, calls, check, op=op, gflop=gflop, gigabytes=gigabytes, dtype=dtype)
