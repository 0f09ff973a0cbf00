"""The largest of 3x3 pixels at every second one, in Triton."""

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch


@triton.jit(do_not_specialize=["rows", "height", "width"])
def max_pool_kernel(
    x,  # [N, height, width, channels]
    out,  # [N, (height + 1) / 2, (width + 1) / 2, channels]
    rows,  # pixels of out
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program: ROWS pixels, CHANNELS channels."""
    row, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    down, across = (height + 1) // 2, (width + 1) // 2
    at_y, at_x = row // across % down * 2, row % across * 2
    mask = (row < rows)[:, None] & (c < channels)[None, :]
    first = (row // (down * across) * height).to(tl.int64)
    largest = tl.full((ROWS, CHANNELS), float("-inf"), tl.float32)
    for tap in tl.static_range(9):
        # A pixel beyond the border is the one on it, which the window has anyway.
        near_y = tl.minimum(tl.maximum(at_y + (tap // 3 - 1), 0), height - 1)
        near_x = tl.minimum(tl.maximum(at_x + (tap % 3 - 1), 0), width - 1)
        place = ((first + near_y) * width + near_x) * channels
        value = tl.load(x + place[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row.to(tl.int64)[:, None] * channels + c[None, :], largest.to(out.dtype.element_ty), mask=mask)


def max_pool(x: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1).contiguous()
    count, height, width, channels = x.shape
    out = x.new_empty(count, (height + 1) // 2, (width + 1) // 2, channels)
    rows, block = count * out.shape[1] * out.shape[2], min(64, triton.next_power_of_2(channels))
    grid = triton.cdiv(rows, 32), triton.cdiv(channels, block)
    launch(max_pool_kernel, grid, x.device, x, out, rows, height, width, channels, ROWS=32, CHANNELS=block)
    return out.permute(0, 3, 1, 2)
