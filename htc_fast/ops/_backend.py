"""Which backend runs an operator.

A CPU tensor runs in C++. A CUDA tensor runs in CUDA C++ where that was built, in Triton otherwise. `use_backend` or
HTC_FAST_BACKEND forces one: a forced backend never falls back, it raises.

Convolutions are what torch's own libraries do well: for the operators in `from_torch`, "cpp" means oneDNN and "cuda"
means cuDNN, both through torch, and a CUDA tensor runs in Triton.
"""

import contextlib
import contextvars
import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from torch.autograd import forward_ad

from htc_fast.errors import UserError, short
from htc_fast.ops import _native

BACKENDS = ("cpp", "cuda", "triton", "reference")
# What exists per operator; every operator's file adds its own.
available: dict[str, set[str]] = {}
from_torch: set[str] = set()
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("htc_fast_backend", default=None)


def _check(name: str) -> str:
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"unknown backend {short(name)}: expected one of {', '.join(BACKENDS)}.")
    return name


# Not checked here: what says so in one sentence cannot do it while it is imported.
_from_environment = os.environ.get("HTC_FAST_BACKEND") or None


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operator called inside the block, in this thread or task, on one backend.

    name    "cpp" (CPU tensors), "cuda", "triton" (CUDA tensors) or "reference" (plain PyTorch, any device)
    raises  ValueError if the name is unknown; a call whose tensors or operator the backend lacks raises there
    """
    token = _forced.set(_check(name))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend() -> str | None:
    """What `use_backend` or HTC_FAST_BACKEND asks for here; None: the device decides."""
    return _forced.get() or _from_environment


# Dynamo of torch 2.11 cannot look into a ContextVar: a compiled function keeps the backend it was compiled under. It is
# all that torch.compiler.assume_constant_result does, but for importing dynamo, which takes as long as torch itself.
forced_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def register(op: str, *backends: str) -> None:
    """Note that `op` has these backends (besides the reference, which every operator has), Triton where it is there."""
    available[op] = {"reference", *(one for one in backends if one != "triton" or triton_installed())}


def triton_installed() -> bool:
    """Whether Triton can be imported; does not import it."""
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


def in_triton(tensor: torch.Tensor) -> bool:
    """Whether a kernel that is no operator's own runs in Triton for this tensor: on a GPU unless another is forced."""
    return tensor.device.type == "cuda" and forced_backend() in (None, "triton") and triton_installed()


def register_over_torch(op: str) -> None:
    """Note that `op` is written over torch's own convolutions on every device, and in Triton."""
    from_torch.add(op)
    register(op, "cpp", "cuda", "triton")


def _by_device(op: str, has: set[str], device: str) -> str:
    if device != "cuda":
        return "cpp" if device in ("cpu", "meta") else "reference"
    if op in from_torch:
        return "triton" if "triton" in has else "cuda"
    return "cuda" if "cuda" in has and _native.has_cuda() else "triton" if "triton" in has else "cuda"


def backend_for(op: str, tensor: torch.Tensor) -> str:
    """The backend that `op` uses for a tensor of this device.

    raises  RuntimeError if a forced backend does not have the operator or cannot take the device; UserError if
            HTC_FAST_BACKEND names none; ImportError if the native library that it needs is missing
    """
    forced, has = forced_backend(), available.get(op, {"reference"})
    device = tensor.device.type
    chosen = _by_device(op, has, device) if forced is None else forced
    if chosen == "reference":
        return chosen
    if chosen not in has:
        if chosen not in BACKENDS:
            raise UserError(
                f"HTC_FAST_BACKEND={chosen} names no backend: set it to {' or '.join(BACKENDS)}, or unset it."
            )
        raise RuntimeError(f"{op} has no {chosen!r} backend here: it has {', '.join(sorted(has))}.")
    wanted = "cpu" if chosen == "cpp" else "cuda"
    fits = device == wanted or device == "meta"
    if not fits and not (chosen == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):  # its interpreter
        raise RuntimeError(
            f"the backend {chosen!r} was asked for and needs {wanted} tensors, got {device}: "
            "move the tensors or choose another backend."
        )
    if chosen != "triton" and op not in from_torch:
        _native.require(cuda=chosen == "cuda")
    return chosen


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is under way; not known while a program is compiled."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def refuse_tangents(op: str, *tensors: torch.Tensor | None) -> None:
    """For kernels that would drop a tangent without a word.

    raises  RuntimeError where forward-mode differentiation is under way through one of the tensors
    """
    if in_forward_mode() and any(
        one is not None and forward_ad.unpack_dual(one).tangent is not None for one in tensors
    ):
        raise RuntimeError(
            f'{op} has no forward-mode derivative in its kernels: use backward, or ops.use_backend("reference").'
        )


def library(backend: str) -> ModuleType:
    """The namespace that a backend's operators are in; both have the same schemas."""
    return torch.ops.htc_fast_triton if backend == "triton" else torch.ops.htc_fast
