"""A reader of PyTorch checkpoints that runs none of their code.

PyTorch's own reader takes a pickle module; this one knows the few names that tensors and, for detectron2's .pkl files,
NumPy arrays are made of. Every other class in the file (a training framework's log buffers, say) is replaced by a
placeholder that does nothing.
"""

import collections
import pickle
import re
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from htc_fast.errors import UserError

_TORCH_DTYPES = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_STORAGES = {name for name in vars(torch) if name.endswith("Storage")}
_REBUILD = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor"}
_BUILTINS = {"set": set, "frozenset": frozenset, "complex": complex, "bytearray": bytearray, "slice": slice}


class Placeholder:
    """Stands for an object of a class that is not read; takes any construction and any state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


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


# Whole names only; NumPy has renamed its insides.
_NUMPY = {
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
    "numpy.dtype": Type,
    "numpy.ndarray": Placeholder,
    "_codecs.encode": _encode,
}


class Unpickler(pickle.Unpickler):
    """Finds only what tensors are built from."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name in ("OrderedDict", "defaultdict", "Counter", "deque"):
            return collections.OrderedDict if name == "OrderedDict" else _plain(name)
        if module == "torch._utils" and name in _REBUILD:
            return getattr(torch._utils, name)
        if module == "torch" and (name in _STORAGES or name in _TORCH_DTYPES or name in ("Size", "device")):
            return getattr(torch, name)
        if module == "torch.storage" and name in ("UntypedStorage", "TypedStorage", "_LegacyStorage"):
            return getattr(torch.storage, name)
        if module == "builtins" and name in _BUILTINS:
            return _BUILTINS[name]
        return _NUMPY.get(f"{module}.{name}", Placeholder)


def _plain(name: str) -> Any:
    # defaultdict takes a factory, which would be a callable of the file's choosing.
    return {"defaultdict": _dict_of_anything, "Counter": dict, "deque": list}[name]


def _dict_of_anything(*args: Any) -> dict:
    return {}


def _module() -> types.ModuleType:
    made = types.ModuleType("htc_fast_restricted_pickle")
    made.Unpickler = Unpickler
    made.load = lambda file, **options: Unpickler(file, **options).load()
    made.UnpicklingError = pickle.UnpicklingError
    return made


def load(path: Path) -> Any:
    """What a .pth or .pkl file holds, tensors on the CPU, NumPy arrays as tensors.

    raises  UserError if it is no PyTorch checkpoint, or damaged
    """
    try:
        if zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", pickle_module=_module(), weights_only=False)
        with path.open("rb") as file:
            # A plain pickle, as detectron2 writes; PyTorch's old format begins with a number.
            content = Unpickler(file, encoding="latin1").load()
        if isinstance(content, dict):
            return _with_tensors(content)
        return torch.load(path, map_location="cpu", pickle_module=_module(), weights_only=False)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError,
            AttributeError, KeyError, IndexError, ModuleNotFoundError, UnicodeDecodeError) as error:  # fmt: skip
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no PyTorch checkpoint or is damaged ({first[:120]}): "
            "expected a .pth, .pkl or .safetensors file."
        ) from error


def _with_tensors(content: Any) -> Any:
    if isinstance(content, Array):
        return None if content.value is None else torch.from_numpy(content.value.astype(content.value.dtype.type))
    return {key: _with_tensors(value) for key, value in content.items()} if isinstance(content, dict) else content
