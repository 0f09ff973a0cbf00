"""How an operator is told to PyTorch: one schema, one fake kernel and one gradient, whatever the backend.

`htc_fast::` holds what the native library implements; `htc_fast_triton::` holds the Triton kernels, to be forced. Where
the library has no CUDA kernel, Triton's is `htc_fast::`'s own, so that a program exported or compiled with that name
runs on a GPU machine without nvcc. Triton itself is imported at the first call of a kernel.

`call` is the shorter way for eager programs: PyTorch's own around an operator in Python takes as long as its kernel.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast.ops import _backend, _native

NATIVE, TRITON = "htc_fast", "htc_fast_triton"
# Kept: what a Library registered goes with it.
_libraries = {namespace: torch.library.Library(namespace, "FRAGMENT") for namespace in (NATIVE, TRITON)}
# Of Triton's operators, by name: what starts the kernels, and the same with its gradient.
_launchers: dict[str, Callable] = {}
_functions: dict[str, Any] = {}


def declare(
    schema: str,
    fake: Callable,
    *,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
    native: bool = True,
    triton: str | None = None,
    python: Callable | None = None,
) -> None:
    """Define an operator in the namespaces of its backends.

    schema         "name(arguments) -> results", as torch.library.define takes it
    fake           the results' shapes and types, as torch.library.register_fake takes it
    backward       (library, ctx, *gradients) -> gradients of the arguments; library is the operator's own namespace
    setup_context  (ctx, inputs, output), as torch.library.register_autograd takes it
    native         whether csrc/torch implements it
    triton         the file in ops/triton that has a function of the operator's name; None: Triton does not run it
    python         what implements it on every device where nothing is native: calls into torch and other operators,
                   which are one operator to whoever traces or counts
    """
    name = schema.partition("(")[0]
    if python is not None:
        _define(NATIVE, name, schema, fake, backward, setup_context)
        _libraries[NATIVE].impl(name, python, "CompositeExplicitAutograd")
    if native and python is None and _native.fits(name):
        _define(NATIVE, name, schema, fake, backward, setup_context)
        if not _native.has(name, "CPU"):
            _libraries[NATIVE].impl(name, lambda *_: _native.require(), "CPU")
        if triton and _backend.triton_installed() and not _native.has(name, "CUDA"):
            _libraries[NATIVE].impl(name, _first_import(triton, name), "CUDA")
    if triton:
        _define(TRITON, name, schema, fake, backward, setup_context)
        _launchers[name] = _first_import(triton, name)
        if backward is not None and "Tensor[]" not in schema:
            _functions[name] = _function(_launchers[name], backward, setup_context)
        for device in ("CUDA", "CPU"):
            _libraries[TRITON].impl(name, _launchers[name], device)


def _define(namespace: str, name: str, schema: str, fake: Callable, backward: Callable | None, setup_context) -> None:
    library, operator = _libraries[namespace], f"{namespace}::{name}"
    library.define(schema)
    torch.library.register_fake(operator, fake, lib=library)
    if backward is not None:
        own = functools.partial(backward, getattr(torch.ops, namespace))
        torch.library.register_autograd(operator, own, setup_context=setup_context, lib=library)
    if "Tensor[]" in schema:  # vmap by itself loops over operators that take no lists alone
        each = functools.partial(_each, getattr(getattr(torch.ops, namespace), name))
        torch.library.register_vmap(operator, each, lib=library)


def _each(operator: Any, info: Any, dims: tuple, *arguments: Any) -> tuple:
    """torch.vmap's rule: one call after the other. dims are the batch's dimensions, None where there is none."""

    def pick(one: Any, dim: Any, number: int) -> Any:
        if isinstance(one, (list, tuple)) and isinstance(dim, (list, tuple)):
            return [pick(*both, number) for both in zip(one, dim)]
        return one if dim is None else one.select(dim, number)

    outs = [operator(*(pick(*both, n) for both in zip(arguments, dims))) for n in range(info.batch_size)]
    if isinstance(outs[0], Tensor):
        return torch.stack(outs), 0
    return [torch.stack(list(one)) for one in zip(*outs)], [0] * len(outs[0])


def _first_import(file: str, name: str) -> Callable:
    @functools.cache
    def found() -> Callable:
        return getattr(importlib.import_module(f"htc_fast.ops.triton.{file}"), name)

    return lambda *arguments: found()(*arguments)


def _function(launcher: Callable, backward: Callable, setup_context: Any) -> Any:
    """What `register_autograd` makes of an operator, without the operator."""

    def forward(ctx, *arguments):
        with torch._C._AutoDispatchBelowAutograd():  # else a result that is a view could not be written to
            out = launcher(*arguments)
        setup_context(ctx, arguments, out)
        return out

    direct = _Direct()

    def gradient(ctx, *grads):  # not a partial: compiled autograd wants a function
        return backward(direct, ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
    return type("TritonFunction", (torch.autograd.Function,), members)


class _Direct:
    """A namespace of Triton's operators whose members go through `call`."""

    def __getattr__(self, name: str) -> Callable:
        return functools.partial(call, getattr(torch.ops.htc_fast_triton, name))


def call(operator: Any, *arguments: Any) -> Any:
    """An operator of Triton's namespace: through PyTorch's dispatcher only where something looks on."""
    if torch._C._autograd._profiler_enabled() or watched(arguments):
        return operator(*arguments)
    name = operator.__name__
    if not torch.is_grad_enabled():
        return _launchers[name](*arguments)
    return _functions[name].apply(*arguments) if name in _functions else operator(*arguments)


def watched(arguments: tuple) -> bool:
    """Whether the program is compiled, exported, traced or transformed, or a tensor is of another kind."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
        or torch._C._get_tracing_state() is not None
        or any(map(_unusual, arguments))
    )


def _unusual(one: Any) -> bool:
    """Whether an argument is, or holds, a tensor whose numbers are not simply those in its memory."""
    if isinstance(one, list):
        return any(map(_unusual, one))
    if not isinstance(one, Tensor):
        return False
    strange = type(one) not in (Tensor, nn.Parameter) or one.is_meta or one.is_neg() or one._is_zerotensor()
    return strange or torch._C._functorch.is_legacy_batchedtensor(one)


def maps_like(like: Tensor, count: int, channels: int, height: int, width: int) -> Tensor:
    """For fake kernels: unfilled maps [count, channels, height, width], channels-last, of like's type and device."""
    return like.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


def dense_like(like: Tensor) -> Tensor:
    """For fake kernels: an unfilled tensor of like's shape, contiguous."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def once(grad: Tensor) -> None:
    """raises  RuntimeError where a second derivative is asked for; for gradients that have none"""
    if torch.is_grad_enabled() and grad.requires_grad:
        raise RuntimeError("this operator has no second derivative: call backward without create_graph=True.")
