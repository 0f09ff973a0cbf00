"""Hybrid Task Cascade, and the instance-segmentation kernels under it."""

from htc_fast.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "create_model", "list_models", "load", "optimize"]


def __getattr__(name: str):
    # Importing one operator must not import a whole detector.
    if name in ("create_model", "list_models", "load"):
        from htc_fast import detector

        return getattr(detector, name)
    if name == "optimize":
        from htc_fast.inference import optimize

        return optimize
    raise AttributeError(f"module 'htc_fast' has no attribute {name!r}")
