"""The products that are cuDNN's: a 3x3 with ReLU, which it does faster on an H100 and an H200 in most sizes."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from htc_fast.ops import _backend, _cudnn
from htc_fast.ops.triton.epilogue import COUNTED, RELU

# Maps and flags with which a 3x3 with ReLU was cuDNN's, tried and not beaten: none of that is asked again.
_settled: set[tuple] = set()


def _case(x: Tensor, weight: Tensor, extra: Tensor | None) -> tuple:
    precision = torch.backends.cudnn.conv.fp32_precision if x.dtype == torch.float32 else ""  # type: ignore[attr-defined]
    return x.shape, x.dtype, x.device, weight.shape[0], extra is None, precision, torch._C._get_cudnn_benchmark()


def settle(x: Tensor, weight: Tensor, extra: Tensor | None) -> None:
    if len(_settled) > 4096:
        _settled.clear()
    _settled.add(_case(x, weight, extra))


def settled(x: Tensor, weight: Tensor, extra: Tensor | None, wanted: int) -> bool:
    """Whether `run` may be called at once."""
    free = x.is_cuda and wanted != COUNTED and _backend.forced_backend() is None and _cudnn.allowed()
    return free and _case(x, weight, extra) in _settled


def by_cudnn(
    x: Tensor, weight: Tensor, bias: Tensor | None, extra: Tensor | None, taps: int, epilogue: int, wanted: int
) -> Callable[[], Tensor | None] | None:
    """The call that does this product, and gives None if there is no way to after all; None where cuDNN cannot do it.

    wanted  which maps are: zeros in the others are needed for counts alone
    """
    able = x.is_cuda and taps == 9 and epilogue == RELU and wanted != COUNTED
    if not able or bias is None or _backend.forced_backend() is not None:
        return None
    try:
        taken = _cudnn.takes(x, weight, bias, extra, _cudnn.SQUARE, keeps_nan=True)
    except torch.OutOfMemoryError:  # trying takes more memory than the kernel of our own
        return None
    return functools.partial(run, x, weight, bias, extra) if taken else None


def run(x: Tensor, weight: Tensor, bias: Tensor, extra: Tensor | None) -> Tensor | None:
    try:
        found = _cudnn.run(x, weight, bias, extra, _cudnn.SQUARE)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # no engine for this very number of maps
        _cudnn.refuse(x, weight, extra, _cudnn.SQUARE, keeps_nan=True)
        _settled.discard(_case(x, weight, extra))
        return None
    return found.contiguous(memory_format=torch.channels_last)
