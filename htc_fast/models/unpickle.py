"""A reader of PyTorch checkpoints that runs none of their code.

PyTorch's own reader takes a pickle module; this one knows the few names that tensors are made of. Every other
class in the file (a training framework's log buffers, say) is replaced by a placeholder that does nothing.
"""

import collections
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

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
        return Placeholder


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
    """What a .pth file holds, tensors on the CPU.

    raises  UserError if it is no PyTorch checkpoint, or damaged
    """
    try:
        return torch.load(path, map_location="cpu", pickle_module=_module(), weights_only=False)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError,
            AttributeError, KeyError, IndexError, ModuleNotFoundError, UnicodeDecodeError) as error:  # fmt: skip
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no PyTorch checkpoint or is damaged ({first[:120]}): expected a .pth or .safetensors file."
        ) from error
