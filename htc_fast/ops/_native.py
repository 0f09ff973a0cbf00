"""The native library: loaded once, missed with a sentence.

`libhtc_fast_ops.so` holds every operator's schema and its C++ (and, where nvcc was present, CUDA) implementation.
"""

from collections.abc import Callable
from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parent.parent / "libhtc_fast_ops.so"
HOW_TO_BUILD = "build it with `pip install -e .` in the project's folder (a C++20 compiler is needed)"
_failure: str | None = None

try:
    torch.ops.load_library(str(LIBRARY))
except OSError as error:
    missing = f"{LIBRARY.name} is not there" if not LIBRARY.exists() else f"{LIBRARY.name} does not load ({error})"
    _failure = f"htc_fast's native library is missing: {missing}; {HOW_TO_BUILD}."

# Asked now, of the dispatcher: before the Triton operators stand in for what is missing.
cuda_operators = frozenset(
    name for name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA") if name.startswith("htc_fast::")
)

try:
    from htc_fast import _build as build
except ImportError:
    build = None


def loaded() -> bool:
    return _failure is None


def problem() -> str | None:
    """Why the library is not loaded and how to build it; None where it is."""
    return _failure


def has_cuda() -> bool:
    """Whether the CUDA kernels were compiled into the library."""
    return bool(cuda_operators)


def require(cuda: bool = False) -> None:
    """raises  ImportError saying what is missing and how to build it"""
    if _failure is not None:
        raise ImportError(_failure)
    if cuda and not has_cuda():
        raise ImportError(f"htc_fast was built without CUDA kernels: install nvcc and {HOW_TO_BUILD}.")


def _has(name: str) -> bool:
    """Whether the library has this operator; one built from older sources may not, and then counts as missing."""
    global _failure
    if loaded() and not hasattr(torch.ops.htc_fast, name):
        _failure = f"htc_fast's native library is older than its Python code (it has no {name}); {HOW_TO_BUILD}."
    return loaded()


def register_fake(name: str) -> Callable:
    """torch.library.register_fake for htc_fast::name, skipped where the library is missing."""
    return torch.library.register_fake(f"htc_fast::{name}") if _has(name) else lambda function: function


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    if _has(name):
        torch.library.register_autograd(f"htc_fast::{name}", backward, setup_context=setup_context)
