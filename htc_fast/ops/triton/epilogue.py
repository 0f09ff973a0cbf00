"""What the two kernels for products over maps share: which rows are wanted, and what becomes of the sum."""

import triton
import triton.language as tl

# What becomes of the sum: kept; relu(sum + bias [+ extra]); extra + relu(sum + bias); extra where sum + bias > 0.
PLAIN, RELU, FLOW, GATE = 0, 1, 2, 3
# Which maps of the batch are computed: all; the first counts[n] of every image's; those whose label is not negative.
ALL, COUNTED, LABELLED = 0, 1, 2


@triton.jit
def relu(value):
    """As torch's: NaN stays."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def wanted_rows(image, choice, per_image, WANTED: tl.constexpr, mask):
    """Whether the map `image` of each row is to be computed."""
    live = mask
    if WANTED == 1:
        live &= image % per_image < tl.load(choice + image // per_image, mask=mask, other=0)
    if WANTED == 2:
        live &= tl.load(choice + image, mask=mask, other=-1) >= 0
    return live


@triton.jit
def finish(total, bias, extra, out, place, known, live, o, outputs, FINISH: tl.constexpr, HAS_EXTRA: tl.constexpr):
    """Bias, second map and ReLU as FINISH says, and the store. total, place and known are [rows, outputs]."""
    if FINISH != 0:
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        other = total * 0.0
        if HAS_EXTRA:
            other = tl.load(extra + place, mask=known & live[:, None], other=0.0).to(tl.float32)
        if FINISH == 1:
            total = relu(total + other)
        if FINISH == 2:
            total = relu(total) + other
        if FINISH == 3:
            total = tl.where(total > 0, other, 0.0)
    tl.store(out + place, tl.where(live[:, None], total, 0.0).to(out.dtype.element_ty), mask=known)
