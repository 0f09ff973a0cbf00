"""The operators: drop-in functions for two-stage detectors, in C++, CUDA and Triton."""

from htc_fast.ops._backend import use_backend

__all__ = ["use_backend"]
