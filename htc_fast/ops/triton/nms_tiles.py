"""What both ways of suppression do with tiles of 64 boxes: overlaps, bits, and who of a tile is kept."""

import torch
import triton
import triton.language as tl

TILE = tl.constexpr(64)
NO_CLASS = torch.iinfo(torch.int64).max
NO_CLASS_CODE = tl.constexpr(NO_CLASS)


@triton.jit
def load_boxes(boxes, at, mask):
    """boxes [.., 4] number `at` -> four coordinates of at's shape, zeros where mask is not set."""
    row = boxes + at * 4
    x1, y1 = tl.load(row, mask=mask, other=0.0), tl.load(row + 1, mask=mask, other=0.0)
    return x1, y1, tl.load(row + 2, mask=mask, other=0.0), tl.load(row + 3, mask=mask, other=0.0)


@triton.jit
def overlap(a, b, threshold):
    """Whether IoU > threshold for boxes a [A] and b [B], tuples of coordinates -> [A, B]."""
    width = tl.minimum(a[2][:, None], b[2][None, :]) - tl.maximum(a[0][:, None], b[0][None, :])
    height = tl.minimum(a[3][:, None], b[3][None, :]) - tl.maximum(a[1][:, None], b[1][None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    union = area_a[:, None] + area_b[None, :] - shared
    return tl.where(shared > 0.0, tl.div_rn(shared, union), 0.0) > threshold


@triton.jit
def bits(flags):
    """flags [.., 64] -> words, bit i set where flag i is."""
    lane = tl.arange(0, TILE).to(tl.int64)
    one = tl.full([TILE], 1, tl.int64) << lane
    return tl.sum(tl.where(flags, one, 0), axis=0)


@triton.jit
def row_bits(flags):
    """flags [64, 64] -> word of each row."""
    lane = tl.arange(0, TILE).to(tl.int64)
    one = (tl.full([TILE], 1, tl.int64) << lane)[None, :]
    return tl.sum(tl.where(flags, one, 0), axis=1)


@triton.jit
def settle(candidate, suppressors):
    """Who of 64 is kept: a candidate none of whose suppressors (bits of better ones) is kept -> flags, word.

    The greedy answer is the only fixed point of that sentence, and every round makes at least one more box final.
    """
    word = bits(candidate)
    before = word + 1
    while word != before:
        before = word
        word = bits(candidate & ((suppressors & before) == 0))
    return candidate & ((suppressors & word) == 0), word
