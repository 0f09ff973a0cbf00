"""A reader of PyTorch checkpoints that runs none of their code.

PyTorch's own reader takes a pickle module; this one knows the few names that tensors and, for detectron2's .pkl files,
NumPy arrays are made of. Every other class in the file (a training framework's log buffers, say) is replaced by a
placeholder that does nothing. `torch.load(weights_only=True)` has no such placeholders: it refuses whole files over a
subclass of dict or list, a name from `os`, or a pickle protocol other than 2, all of which other frameworks write.
"""

import builtins
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from htc_fast.errors import UserError


class Placeholder:
    """Stands for an object of a class that is not read; takes any construction, any content and any state."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = __setstate__


class Array(Placeholder):
    """A NumPy array under way: its state is put together here, by no code of NumPy's pickles."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, Type) or dtype.value is None or not isinstance(content, bytes):
            return  # of objects or of text
        flat = np.frombuffer(content, dtype.value)
        self.value = flat.reshape(shape, order="F" if by_columns else "C")


class Type(Placeholder):
    """A NumPy type of plain numbers; None for any other."""

    def __init__(self, name: Any = "", *args: Any):
        self.value = np.dtype(name) if re.fullmatch(r"[fiub][1248]", str(name)) else None

    def __setstate__(self, state: Any) -> None:
        if self.value is not None and state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Array:
    made = Array()
    made.__setstate__((1, shape, dtype, order == "F", bytes(content)))
    if axes is not None and made.value is not None:
        made.value = made.value.transpose(axes)
    return made


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _named(module: ModuleType, names: Iterable[str]) -> dict[str, Any]:
    return {f"{module.__name__}.{name}": getattr(module, name) for name in names}


# All that a file may call, by whole names; a defaultdict's factory would be a callable of the file's choosing.
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda *args: {},
    "collections.Counter": dict,
    "collections.deque": list,
    **_named(builtins, ("set", "frozenset", "complex", "bytearray", "slice")),
    **_named(torch._utils, ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor")),
    **_named(torch, ("Size", "device", *(name for name in vars(torch) if name.endswith("Storage")))),
    **_named(torch, (name for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
    **_named(torch.storage, ("UntypedStorage", "TypedStorage", "_LegacyStorage")),
    # NumPy has renamed its insides.
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.dtype": Type,
    "_codecs.encode": _encode,
}


class Unpickler(pickle.Unpickler):
    """Finds only what tensors are built from."""

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get(f"{module}.{name}", Placeholder)


# What torch.load takes for a pickle module.
_RESTRICTED = SimpleNamespace(
    __name__="restricted_pickle",
    Unpickler=Unpickler,
    load=lambda file, **options: Unpickler(file, **options).load(),
    UnpicklingError=pickle.UnpicklingError,
)


def load(path: Path) -> Any:
    """What a .pth or .pkl file holds, tensors on the CPU, NumPy arrays as tensors.

    raises  UserError if it is no PyTorch checkpoint, or damaged
    """
    try:
        if zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", pickle_module=_RESTRICTED, weights_only=False)
        with path.open("rb") as file:
            # A plain pickle, as detectron2 writes; PyTorch's old format begins with a number.
            content = Unpickler(file, encoding="latin1").load()
        if isinstance(content, dict):
            return _with_tensors(content)
        return torch.load(path, map_location="cpu", pickle_module=_RESTRICTED, weights_only=False)
    # A damaged or hostile file may raise anything.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no PyTorch checkpoint or is damaged ({first[:120]}): "
            "expected a .pth, .pkl or .safetensors file."
        ) from error


def _with_tensors(content: Any) -> Any:
    if isinstance(content, Array):
        return None if content.value is None else torch.from_numpy(content.value.astype(content.value.dtype.type))
    return {key: _with_tensors(value) for key, value in content.items()} if isinstance(content, dict) else content
