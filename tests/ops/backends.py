"""Who computes an operator: the six columns of every operator's tests, when each can run, and why it cannot.

reference           plain PyTorch
cpp                 the native library; for what is written over torch's convolutions, oneDNN
cuda_emulated       csrc/cuda in the emulator of tests/simt: needs no GPU
cuda                csrc/cuda on a GPU; for what is written over torch's convolutions, cuDNN
triton_interpreted  Triton's interpreter: needs no GPU, is slow, and gets bfloat16 wrong
triton              Triton on a GPU
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch.utils._pytree import tree_map_only

from htc_fast import ops
from htc_fast.ops import _backend, _native
from tests.simt import emulator, operators

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
NO_GPU = "needs a CUDA GPU"
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)]


@dataclass(frozen=True)
class Column:
    name: str
    backend: str
    device: str = "cpu"

    def call(self, operator: str, *arguments, **options):
        """The operator's result as this column computes it; tensors come from and go to the CPU, gradients too."""
        if self.name == "cuda_emulated":
            return getattr(operators, operator)(*arguments, **options)
        with ops.use_backend(self.backend):
            found = getattr(ops, operator)(*self.give(arguments), **self.give(options))
        return tree_map_only(torch.Tensor, lambda one: one.cpu(), found)

    def give(self, values):
        """The same with every tensor on the column's device."""
        return tree_map_only(torch.Tensor, lambda one: one.to(self.device), values)

    def why_not(self, operator: str) -> str | None:
        """Why this column cannot run the operator here."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return NO_GPU
        if self.name == "cuda_emulated":
            return emulator.why_not()
        if self.backend == "triton" and not _backend.triton_installed():
            return "Triton is not installed"
        if self.backend == "triton" and (self.name == "triton_interpreted") != INTERPRETING:
            return f"TRITON_INTERPRET is {'' if INTERPRETING else 'not '}set in this process"
        if self.backend == "cuda" and operator not in _backend.from_torch:
            built = f"htc_fast::{operator}" in _native.cuda_operators
            return None if built else "the native library was built without CUDA kernels"
        if self.backend == "cpp" and operator not in _backend.from_torch:
            return _native.problem()
        return None


REFERENCE = Column("reference", "reference")
CPP = Column("cpp", "cpp")
EMULATED = Column("cuda_emulated", "cuda")
CUDA = Column("cuda", "cuda", "cuda")
INTERPRETED = Column("triton_interpreted", "triton")
TRITON = Column("triton", "triton", "cuda")
ALL = (REFERENCE, CPP, EMULATED, CUDA, INTERPRETED, TRITON)
NATIVE = (REFERENCE, CPP, EMULATED, CUDA)  # of what has no kernel in Triton
ON_CPU = (REFERENCE, CPP)
ON_GPU = (CUDA, TRITON)


def alike(column: Column, found: torch.Tensor, wanted: torch.Tensor, rounding: float = 1e-4) -> bool:
    """Bit for bit; on a GPU, where Triton's part of an operator is torch's exponential, but for `rounding`."""
    if column != TRITON or not found.is_floating_point():
        return torch.equal(found, wanted)
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=rounding, equal_nan=True)


def columns(operator: str, chosen: tuple[Column, ...] = ALL) -> list:
    """pytest's parameters: one column each, skipped with the reason where it cannot run."""
    return [pytest.param(one, id=one.name, marks=_marks(one, operator)) for one in chosen]


def cases(operator: str, names, chosen: tuple[Column, ...] = ALL, unless=None, quick=None) -> list:
    """pytest's parameters: a named case and a column each.

    unless  (name, column) -> why it is skipped, or None
    quick   the cases that are not slow in Triton's interpreter; None: all
    """
    made = []
    for name in names:
        for one in chosen:
            marks = _marks(one, operator, unless and unless(name, one))
            slow = [pytest.mark.slow] if one == INTERPRETED and quick is not None and name not in quick else []
            made.append(pytest.param(name, one, id=f"{name}-{one.name}", marks=[*marks, *slow]))
    return made


def _marks(column: Column, operator: str, other: str | None = None) -> list:
    reason = column.why_not(operator) or other
    marks = [pytest.mark.gpu] if column.device == "cuda" else []
    return [*marks, pytest.mark.skip(reason=reason)] if reason else marks


def emulated_only(names, asan: str, race: str) -> list[str]:
    """The cases of this process: all; in one that tests/simt/test_variants.py started, those that can find something.

    asan  cases that come near a border of memory, separated by spaces
    race  one of every kernel and every way through it that shares memory between threads
    """
    chosen = {"asan": asan, "race": race}.get(emulator.variant())
    assert not set((asan + " " + race).split()) - set(names)
    return list(names) if chosen is None else chosen.split()


def watched_only(watched: list[str]):
    """For `cases`: leaves out of the emulator's column what is not watched."""

    def unless(name: str, column: Column) -> str | None:
        watches = column != EMULATED or name in watched
        return None if watches else "finds nothing under this check that others do not"

    return unless


def run_without_waiting(call):
    """call()'s result, where waiting for the GPU is an error; it has run once before, which may compile."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def convolutions_in(precision: str) -> Iterator[None]:
    """How torch multiplies float32 in convolutions, "ieee" or "tf32", until the block ends, however it ends.

    Not pytest's monkeypatch: it takes this flag for an attribute that it may delete, and fails; and one that stays set
    makes every later torch.backends.cudnn.flags raise.
    """
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """No TF32 in matrix products and convolutions until the block ends."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with convolutions_in("ieee"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
