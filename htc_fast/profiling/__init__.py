"""Where the time goes, part by part, beside what this device could do at best.

profile(ProfileRun(models=("htc_r50",), image_size=(400, 667)))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htc_fast.profiling.run import ProfileRun, profile

__all__ = ["ProfileRun", "profile"]


def __getattr__(name: str) -> Any:
    # Asking for a device's name or limits must not import detectors.
    if name in __all__:
        return getattr(import_module("htc_fast.profiling.run"), name)
    raise AttributeError(f"module 'htc_fast.profiling' has no attribute {name!r}")
