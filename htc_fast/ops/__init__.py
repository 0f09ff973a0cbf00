"""The operators: drop-in functions for two-stage detectors, in C++, CUDA and Triton."""

from htc_fast.ops._backend import use_backend
from htc_fast.ops.soft_nms import soft_nms

__all__ = ["soft_nms", "use_backend"]
