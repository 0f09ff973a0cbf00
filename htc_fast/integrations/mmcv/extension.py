"""The module that answers for `mmcv._ext`: what mmcv's Python files ask their compiled extension for."""

import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

from htc_fast.integrations.mmcv import (
    deform_roi_pool,
    deformable,
    focal_loss,
    info,
    pr_roi_pool,
    roi_align,
    roi_pool,
    sampling,
    suppression,
)

NAME = "mmcv._ext"
PARTS = roi_align, roi_pool, pr_roi_pool, deform_roi_pool, suppression, focal_loss, deformable, sampling, info
OPERATORS: dict[str, Callable] = {name: operator for part in PARTS for name, operator in part.OPERATORS.items()}


class Extension(types.ModuleType):
    """`mmcv._ext` without a compiler: every name is there, and those that are missing say so when they are called.

    behind  mmcv's compiled extension, which then answers for what is missing here; or None
    """

    def __init__(self, behind: types.ModuleType | None = None):
        super().__init__(NAME, "htc_fast's operators in the place of mmcv's compiled extension.")
        # pkgutil and importlib look for both.
        self.__spec__ = ModuleSpec(NAME, self, origin=__name__)  # type: ignore[arg-type]
        self.__loader__ = self  # type: ignore[assignment]
        self.behind = behind
        vars(self).update(OPERATORS)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {NAME} has no attribute {name}")
        return _missing(name) if self.behind is None else getattr(self.behind, name)


def _missing(name: str) -> Callable[..., NoReturn]:
    def operator(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"mmcv's operator {name} is not among the {len(OPERATORS)} that htc_fast stands in for: "
            f"configure the model without it, or build mmcv with its compiled extension."
        )

    operator.__name__ = operator.__qualname__ = name
    return operator
