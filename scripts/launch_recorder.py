"""Which operators a program runs on a GPU, written down on a machine that has none."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from htc_fast.ops import _native

REST = "rest"  # what lies in no part
aten = torch.ops.aten
# New tensors, and looks at old ones that the dispatcher does not know as such.
NOTHING = {
    getattr(aten, name)
    for name in "empty empty_like empty_strided new_empty detach alias lift_fresh _unsafe_view _reshape_alias".split()
}


@dataclass(frozen=True)
class Call:
    part: str
    operator: Any
    arguments: tuple
    options: dict
    moved: int


class Recorder(TorchDispatchMode):
    """Writes down every operator that is no view, with the part it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.inside: list[str] = []

    def begin(self, name: str) -> None:
        self.inside.append(name)

    def end(self, name: str) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator._overloadpacket is aten.convolution:  # where there is no cuDNN, torch forgets what it would do
            result = result.new_empty(result.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        if launches_nothing(operator, args, result):
            return result
        here = self.inside[-1] if self.inside else REST
        described = tree_map_only(Tensor, Described, (args, kwargs or {}))
        self.calls.append(Call(here, operator, *described, bytes_of(args, kwargs) + bytes_of(result)))
        return result


def bytes_of(*values) -> int:
    """Of the tensors among the values, each once: what a kernel has no use for is given as one that it has."""
    tensors = {id(one): one for one in tree_leaves(values) if isinstance(one, Tensor)}.values()
    # A kernel that finds its own way through memory is given the first number alone.
    return sum(one.untyped_storage().nbytes() if one.numel() == 1 else one.nbytes for one in tensors)


class Described:
    """A tensor's shape, strides and type."""

    def __init__(self, tensor: Tensor):
        self.shape, self.strides, self.dtype = tensor.shape, tensor.stride(), tensor.dtype

    def on(self, device: str) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device)


def launches_nothing(operator, arguments: tuple, result) -> bool:
    if operator._overloadpacket in NOTHING or all(not isinstance(one, Tensor) for one in tree_leaves(result)):
        return True
    if not any(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)):
        return True
    returned = operator._schema.returns
    looks = all(one.alias_info is not None and not one.alias_info.is_write for one in returned)
    same = operator._overloadpacket in (aten._to_copy, aten.clone) and result is arguments[0]
    return looks or same


@contextlib.contextmanager
def pretending() -> Iterator[None]:
    """Tensors without data that claim to be on a GPU, for which our CUDA kernels were built."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_native, "has_cuda", lambda: True))
        stack.enter_context(mock.patch.object(_native, "require", lambda cuda=False: None))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield
