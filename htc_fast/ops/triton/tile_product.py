"""A tile of rows times a weight, for kernels that do more than one."""

import triton
import triton.language as tl


@triton.jit
def tile_product(
    source,  # [rows, channels]
    weight,  # its first number
    row,  # [rows] of the tile
    o,  # [outputs] of the tile
    live,  # [rows] whether the row exists
    channels,
    outputs,
    step_in,  # distance in weight between channels
    step_out,  # and outputs
    EVEN: tl.constexpr,  # whether DEPTH divides channels
    PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """source's rows times weight: [rows, outputs] float32."""
    d = tl.arange(0, DEPTH)
    here = source + (row.to(tl.int64)[:, None] * channels + d[None, :])
    columns = weight + (o[None, :] * step_out + (d * step_in)[:, None])
    total = tl.zeros((row.shape[0], o.shape[0]), tl.float32)
    for k in range(tl.cdiv(channels, DEPTH)):
        left_mask, right_mask = live[:, None], (o < outputs)[None, :]
        if not EVEN:
            there = k * DEPTH + d < channels
            left_mask, right_mask = left_mask & there[None, :], right_mask & there[:, None]
        left = tl.load(here + k * DEPTH, mask=left_mask, other=0.0)
        right = tl.load(columns + k * DEPTH * step_in, mask=right_mask, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total
