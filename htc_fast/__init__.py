"""Hybrid Task Cascade, and the instance-segmentation kernels under it."""

import time
from importlib import import_module
from typing import Any

from htc_fast.errors import UserError

BEGAN = time.monotonic()  # before the imports, which take seconds and count where a command has a limit of time
__version__ = "0.1.0"
__all__ = ["UserError", "create_model", "list_models", "load", "optimize"]

# Imported at first use: importing one operator must not import a whole detector.
_HOME = dict.fromkeys(("create_model", "list_models", "load"), "htc_fast.detector") | {"optimize": "htc_fast.inference"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'htc_fast' has no attribute {name!r}")
