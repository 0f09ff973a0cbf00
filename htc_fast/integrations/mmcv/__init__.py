"""mmcv's operators without mmcv's compiled extension: `install()`, and `mmcv.ops` imports and works.

`mmcv.ops` fetches every operator from one compiled module, `mmcv._ext`, which does not build against current PyTorch.
A module of these operators takes its place, with mmcv's argument lists and conventions.
"""

import importlib.util
import sys
from types import ModuleType

from htc_fast.integrations.mmcv.extension import NAME, OPERATORS, Extension

__all__ = ["OPERATORS", "install", "uninstall"]


def install(force: bool = False) -> ModuleType:
    """Answer for mmcv's compiled extension, before or after `import mmcv`; a second call changes nothing.

    force    take the place of a compiled extension that is loaded already; it goes on answering for what is missing
    returns  the module that stands for mmcv._ext
    raises   ModuleNotFoundError where mmcv is not installed; RuntimeError where its compiled extension is loaded
    source   mmcv 2.x: mmcv/ops/*.py
    """
    there = sys.modules.get(NAME)
    if isinstance(there, Extension):
        return there
    if there is None and sys.modules.get("mmcv") is None and importlib.util.find_spec("mmcv") is None:
        raise ModuleNotFoundError(
            "mmcv is not installed: pip install onedl-mmcv (or mmcv-lite), whose Python files are enough."
        )
    if there is not None and not force:
        raise RuntimeError(
            f"mmcv's compiled extension is loaded already, so nothing needs to stand in for it: "
            f"use install(force=True) to run htc_fast's operators in the place of {getattr(there, '__file__', NAME)}."
        )
    ours = Extension(there)
    _put(there, ours)
    return ours


def uninstall() -> None:
    """Undo `install`: a compiled extension is back where there was one; an imported `mmcv.ops` keeps ours else."""
    ours = sys.modules.get(NAME)
    if isinstance(ours, Extension):
        _put(ours, ours.behind)


def _put(old: ModuleType | None, new: ModuleType | None) -> None:
    """Exchange one extension for another, also in the files of mmcv.ops that hold it."""
    package = sys.modules.get("mmcv")
    if new is None:
        sys.modules.pop(NAME, None)
        vars(package or ModuleType("mmcv")).pop("_ext", None)
        return
    sys.modules[NAME] = new
    if package is not None:
        package._ext = new  # type: ignore[attr-defined]
    holders = [one for name, one in list(sys.modules.items()) if name.startswith("mmcv.ops.")]
    for one in holders:
        if old is not None and vars(one).get("ext_module") is old:
            one.ext_module = new  # type: ignore[attr-defined]
