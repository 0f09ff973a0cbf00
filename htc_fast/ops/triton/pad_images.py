"""Images cast, laid out channels-last and given channels of zeros in one launch, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch


@triton.jit(do_not_specialize=["rows", "height", "width", "step_n", "step_y", "step_x", "step_c"])
def pad_images_kernel(
    images,  # [N, C, H, W], lying as the steps say
    out,  # [N, H, W, WIDE]
    rows,  # N * H * W
    height,
    width,
    step_n,
    step_y,
    step_x,
    step_c,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,  # a power of two
    ROWS: tl.constexpr,
):
    """One program: ROWS pixels, all channels."""
    row, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    image, y, x = row // (height * width), row // width % height, row % width
    place = image.to(tl.int64) * step_n + y.to(tl.int64) * step_y + x * step_x
    mask = (row < rows)[:, None] & (c < CHANNELS)[None, :]
    value = tl.load(images + place[:, None] + c.to(tl.int64)[None, :] * step_c, mask=mask, other=0.0)
    known = (row < rows)[:, None] & (c < WIDE)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * WIDE + c[None, :], value.to(out.dtype.element_ty), mask=known)


def pad_images(images: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    count, before, height, width = images.shape
    out = images.new_empty(count, height, width, channels, dtype=dtype)
    rows, (step_n, step_c, step_y, step_x) = count * height * width, images.stride()
    numbers = rows, height, width, step_n, step_y, step_x, step_c
    kind = {"CHANNELS": before, "WIDE": channels, "ROWS": 512}
    launch(pad_images_kernel, triton.cdiv(rows, 512), images.device, images, out, *numbers, **kind)
    return out.permute(0, 3, 1, 2)
