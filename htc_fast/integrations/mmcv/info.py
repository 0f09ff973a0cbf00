"""What mmcv says about its compiled extension."""

import platform

import torch


def get_compiler_version() -> str:
    """What mmdetection's report of its environment shows."""
    return f"none (htc_fast's operators; Python was built by {platform.python_compiler()})"


def get_compiling_cuda_version() -> str:
    """That of torch: nothing was compiled against another."""
    return str(torch.version.cuda or "not available")


OPERATORS = {one.__name__: one for one in (get_compiler_version, get_compiling_cuda_version)}
