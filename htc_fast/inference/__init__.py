"""Inference without waiting: a detector laid out once for its device, replayed as one graph where there is a GPU."""

from htc_fast.inference.optimize import Optimized, optimize

__all__ = ["Optimized", "optimize"]
