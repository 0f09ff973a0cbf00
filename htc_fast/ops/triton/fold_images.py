"""Images cast and folded, two by two pixels and a border of zeros, in one launch, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch


@triton.jit(do_not_specialize=["rows", "height", "width", "step_n", "step_y", "step_x", "step_c"])
def fold_images_kernel(
    images,  # [N, 3, height, width], lying as the steps say
    out,  # [N, down, across, 16]
    rows,  # N * down * across
    height,
    width,
    step_n,
    step_y,
    step_x,
    step_c,
    ROWS: tl.constexpr,
):
    """One program: ROWS folded pixels."""
    row, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, 16)
    down, across = (height + 1) // 2 + 3, (width + 1) // 2 + 3
    image, fold_y, fold_x = row // (down * across), row // across % down, row % across
    y, x = 2 * fold_y[:, None] - 4 + (c // 8)[None, :], 2 * fold_x[:, None] - 4 + (c % 8 // 3)[None, :]
    there = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (row < rows)[:, None] & (c % 8 < 6)[None, :]
    place = (image.to(tl.int64) * step_n)[:, None] + y.to(tl.int64) * step_y + x.to(tl.int64) * step_x
    value = tl.load(images + place + (c % 8 % 3).to(tl.int64)[None, :] * step_c, mask=there, other=0.0)
    known = (row < rows)[:, None] & (c < 16)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * 16 + c[None, :], value.to(out.dtype.element_ty), mask=known)


def fold_images(images: Tensor, dtype: torch.dtype) -> Tensor:
    count, _, height, width = images.shape
    out = images.new_empty(count, (height + 1) // 2 + 3, (width + 1) // 2 + 3, 16, dtype=dtype)
    rows, (step_n, step_c, step_y, step_x) = out.numel() // 16, images.stride()
    numbers = rows, height, width, step_n, step_y, step_x, step_c
    launch(fold_images_kernel, triton.cdiv(rows, 256), images.device, images, out, *numbers, ROWS=256)
    return out.permute(0, 3, 1, 2)
