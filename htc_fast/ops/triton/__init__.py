"""The Triton column: kernels for CUDA tensors where no CUDA C++ was built, and for CPU tensors in Triton's interpreter.

`library.py` declares the operators and imports no Triton; a kernel's file is imported at the operator's first call.
"""
