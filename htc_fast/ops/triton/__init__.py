"""The Triton column: kernels for CUDA tensors where no CUDA C++ was built, and for CPU tensors in Triton's interpreter.

Each operator is declared in `ops/<op>.py`, which imports no Triton: a kernel's file is imported at its first call.
"""
