"""A ResNet's first convolution over folded images: 4x4 over 16 numbers per pixel, bias and ReLU, in Triton.

In memory the four pixels under a row of the kernel are 64 numbers side by side: a row of the image is one product
[pixels, 64] x [64, outputs] per row of the kernel. A program walks down SPAN lines of the image: of every line that it
reads, it adds the product to the four lines of results that see it, and stores the one that has seen its last.
"""

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import relu
from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.tiles import device_of

ROWS, SPAN = 64, 16


@triton.jit
def keep(sums, bias, places, mask, RELU: tl.constexpr):
    """Store a finished line of results."""
    value = sums + bias[None, :]
    if RELU:
        value = relu(value)
    tl.store(places, value.to(places.dtype.element_ty), mask=mask[:, None])


@triton.jit(do_not_specialize=["rows", "height", "width", "spans"])
def stem_kernel(
    folded,  # [N, height + 3, width + 3, 16]
    weight,  # [64, 4, 4, 16]
    bias,  # [64]
    out,  # [N, height, width, 64]
    rows,  # N * spans * width: columns of SPAN pixels
    height,
    width,
    spans,  # that cover height
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """One program: ROWS columns of SPAN pixels, OUTPUTS of their outputs."""
    row, o = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    # Columns and lines beyond the last read the last: no load needs a mask.
    column = tl.minimum(row, rows - 1)
    image, top, x = column // (spans * width), column // width % spans * SPAN, column % width
    start = (image * (height + 3) + top).to(tl.int64) * (width + 3) + x
    d, lines = tl.arange(0, 64), height + 2 - top
    here, columns = folded + (start * 16)[:, None] + d[None, :], weight + o[None, :] * 256 + d[:, None]
    first, second = tl.load(columns), tl.load(columns + 64)
    third, fourth = tl.load(columns + 128), tl.load(columns + 192)
    offset = tl.load(bias + o).to(tl.float32)
    places = out + (((image * height + top).to(tl.int64) * width + x) * 64)[:, None] + o[None, :]
    a = tl.zeros((ROWS, OUTPUTS), tl.float32)
    b = tl.zeros((ROWS, OUTPUTS), tl.float32)
    c = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for line in range(SPAN + 3):
        pixels = tl.load(here + (tl.minimum(line, lines) * (width + 3) * 16)[:, None])
        new = tl.dot(pixels, first)
        c = tl.dot(pixels, second, c)
        b = tl.dot(pixels, third, b)
        done = tl.dot(pixels, fourth, a)
        a, b, c = b, c, new
        y = line - 3
        keep(done, offset, places + y * width * 64, (row < rows) & (y >= 0) & (top + y < height), RELU)


def stem(folded: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    folded, weight = folded.permute(0, 2, 3, 1).contiguous(), weight.permute(0, 2, 3, 1).contiguous()
    count, height, width = len(folded), folded.shape[1] - 3, folded.shape[2] - 3
    out = folded.new_empty(count, height, width, 64)
    spans = triton.cdiv(height, SPAN)
    rows = count * spans * width
    # Where warps multiply on their own, weights lie in registers, and all of them would not fit.
    outputs = 64 if device_of(folded).warpgroups else 32
    kind = {"RELU": relu, "ROWS": ROWS, "OUTPUTS": outputs, "SPAN": SPAN}
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    grid, given = (triton.cdiv(rows, ROWS), 64 // outputs), (folded, weight, bias.contiguous(), out)
    launch(stem_kernel, grid, folded.device, *given, rows, height, width, spans, **kind, **options)
    return out.permute(0, 3, 1, 2)
