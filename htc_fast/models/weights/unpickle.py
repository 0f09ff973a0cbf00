"""A reader of PyTorch checkpoints that runs none of their code.

PyTorch's own reader takes a pickle module; this one knows the few names that tensors and, for detectron2's .pkl files,
NumPy arrays are made of. Every other class in the file (a training framework's log buffers, say) is replaced by a
placeholder that does nothing. `torch.load(weights_only=True)` has no such placeholders: it refuses whole files over a
subclass of dict or list, a name from `os`, or a pickle protocol other than 2, all of which other frameworks write.
"""

import builtins
import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.serialization import MAGIC_NUMBER

from htc_fast.errors import UserError


class Placeholder:
    """Stands for an object of a class that is not read; takes any construction, any content and any state.

    origin   the class's whole name, in the file
    content  the object's attributes and items by name, as the file gives them: a pickled module has its tensors there
    """

    origin = "an object"
    content: dict

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        made = super().__new__(cls)
        made.content = {}
        return made

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return self

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.content.update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.content[key] = value

    def append(self, value: Any) -> None:
        self.content[str(len(self.content))] = value

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)

    add = append


class Array(Placeholder):
    """A NumPy array under way: its state is put together here, by no code of NumPy's pickles."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, Type) or dtype.value is None or not isinstance(content, bytes):
            return  # of objects or of text
        flat = np.frombuffer(content, dtype.value)
        self.value = flat.reshape(shape, order="F" if by_columns else "C")

    def tensor(self) -> torch.Tensor | None:
        """A copy in this machine's byte order; None of objects or text."""
        return None if self.value is None else torch.from_numpy(self.value.astype(self.value.dtype.type))


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


def _of_bytes(content: bytes) -> Any:
    """A storage inside a plain pickle of tensors."""
    return _torch_load(io.BytesIO(content))


def _rebuild(make: Any, kind: Any, args: tuple, state: Any) -> Any:
    """A tensor that had attributes; they are left."""
    return make(*args)


def _named(module: ModuleType, names: Iterable[str]) -> dict[str, Any]:
    return {f"{module.__name__}.{name}": getattr(module, name) for name in names}


# All that a file may call, by whole names; a defaultdict's factory would be a callable of the file's choosing.
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda *args: {},
    "collections.Counter": dict,
    "collections.deque": list,
    **_named(builtins, ("set", "frozenset", "complex", "bytearray", "slice")),
    **_named(torch._utils, ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")),
    "torch._utils._rebuild_parameter_with_state": lambda data, *others: data,
    "torch._tensor._rebuild_from_type_v2": _rebuild,
    "torch.storage._load_from_bytes": _of_bytes,
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
        origin = f"{module}.{name}"
        return _KNOWN.get(origin) or type("Unread", (Placeholder,), {"origin": origin})


# What torch.load takes for a pickle module.
_RESTRICTED = SimpleNamespace(
    __name__="restricted_pickle",
    Unpickler=Unpickler,
    load=lambda file, **options: Unpickler(file, **options).load(),
    UnpicklingError=pickle.UnpicklingError,
)


def _torch_load(file: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a module's class has no source here, on purpose
        # Text of Python 2, which wrote the oldest files, is taken byte by byte.
        return torch.load(file, map_location="cpu", pickle_module=_RESTRICTED, weights_only=False, encoding="latin1")


def load(path: Path) -> Any:
    """What a .pth or .pkl file holds: containers, tensors on the CPU, placeholders (also for NumPy's arrays).

    raises  UserError if it is no PyTorch checkpoint, or damaged
    """
    try:
        if zipfile.is_zipfile(path):
            return _torch_load(path)
        with path.open("rb") as file:
            # A plain pickle, as detectron2 writes; PyTorch's old format begins with a number.
            content = Unpickler(file, encoding="latin1").load()
        return _torch_load(path) if isinstance(content, int) and content == MAGIC_NUMBER else content
    # A damaged or hostile file may raise anything.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no PyTorch checkpoint or is damaged ({first[:120]}): "
            "expected a .pth, .pkl or .safetensors file."
        ) from error
