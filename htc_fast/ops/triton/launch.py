"""How a kernel is started, and what the launchers share."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def launch(kernel: Any, programs: int | tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
    """Start a kernel on the device's current stream.

    Without fused multiply-add unless asked for: rounding, and with it sample counts and ties, is the reference's.
    """
    grid = (programs,) if isinstance(programs, int) else programs
    if min(grid) == 0:
        return
    other = device.type == "cuda" and torch.cuda.current_device() != device.index
    with torch.cuda.device(device) if other else contextlib.nullcontext():
        kernel.run(*arguments, grid=grid, warmup=False, **{"enable_fp_fusion": False, **options})


def check_floats(what: str, tensor: Tensor) -> None:
    """raises  TypeError for element types that the Triton kernels do not take"""
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{what} must be float32, float16 or bfloat16 on the backend 'triton', got {tensor.dtype}: convert it, or "
            "use the backend 'reference'."
        )


def odd(values: Sequence[int]) -> tuple[int, ...]:
    """Sizes as odd numbers above 1, for `taps.size_of`.

    Triton compiles a kernel anew where an integer becomes 1 or divisible by 16, and elements of a tuple cannot be
    exempted: five maps of any size would be a thousand kernels.
    """
    return tuple(2 * value + 3 for value in values)


def cdiv(whole: int, part: int) -> int:
    """whole / part, rounded up. Triton's own, made for kernels too, takes a launcher microseconds."""
    return -(-whole // part)


def next_power_of_two(count: int) -> int:
    """The least that covers `count`, 1 for none."""
    return 1 << max(count - 1, 0).bit_length()


def power_of_two(count: int, most: int, least: int = 16) -> int:
    """The block that covers `count`, or the largest allowed."""
    return max(least, min(most, next_power_of_two(count)))


def channels_last(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps [N, C, H, W] whose channels lie side by side, with whatever other strides; others are copied once."""
    return [
        one if one.stride(1) == 1 or one.shape[1] == 1 else one.contiguous(memory_format=torch.channels_last)
        for one in maps
    ]


def widest_window(bins: int, grid: int) -> int:
    """How many bins of a grid the widest of `bins` output bins averages (as adaptive average pooling does)."""
    return max(-((p + 1) * grid // -bins) - p * grid // bins for p in range(bins))
