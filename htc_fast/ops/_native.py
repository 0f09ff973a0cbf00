"""The native library: loaded once, missed with a sentence.

`libhtc_fast_ops.so` holds the operators' C++ (and, where nvcc was present, CUDA) kernels; `_declare` has their schemas.
"""

from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parent.parent / "libhtc_fast_ops.so"
HOW_TO_BUILD = "build it with `pip install -e .` in the project's folder (a C++20 compiler is needed)"
_failure: str | None = None

try:
    torch.ops.load_library(str(LIBRARY))
except OSError as error:
    missing = f"{LIBRARY.name} is not there"
    if LIBRARY.exists():
        # What torch raises names the file alone, and what the system said of it is behind.
        reason = str(error.__cause__ or error).removeprefix(f"{LIBRARY}: ")
        missing = f"{LIBRARY.name} does not load beside torch {torch.__version__}, and wants 2.11 or newer ({reason})"
    _failure = f"htc_fast's native library is missing: {missing}; {HOW_TO_BUILD}."

# Asked now, of the dispatcher: before the Triton operators stand in for what is missing.
_cpu_operators, cuda_operators = (
    frozenset(one for one in torch._C._dispatch_get_registrations_for_dispatch_key(key) if one.startswith("htc_fast::"))
    for key in ("CPU", "CUDA")
)

try:
    from htc_fast import _build as build  # type: ignore[attr-defined]
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


def has(name: str, device: str) -> bool:
    """Whether the library brought a kernel of this operator for "CPU" or "CUDA"."""
    return f"htc_fast::{name}" in (cuda_operators if device == "CUDA" else _cpu_operators)


def fits(name: str) -> bool:
    """Whether a schema can be given to this operator; a library built from older sources counts as missing.

    Such a library has no kernel of that name, or, as libraries once did, a schema of its own.
    """
    global _failure
    taken = hasattr(torch.ops.htc_fast, name)
    if loaded() and (taken or not has(name, "CPU")):
        _failure = f"htc_fast's native library is older than its Python code (another {name}); {HOW_TO_BUILD}."
    return not taken
