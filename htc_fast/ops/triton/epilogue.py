"""What the two kernels for products over maps share: which rows are wanted, and what becomes of the sum."""

import triton
import triton.language as tl

# What becomes of the sum: kept; relu(sum + bias [+ extra]); extra + relu(sum + bias); extra where sum + bias > 0;
# sum + bias [+ extra]; the same with an extra of another size, of which every pixel takes the nearest one.
PLAIN, RELU, FLOW, GATE, SUM, NEAREST = 0, 1, 2, 3, 4, 5
# Which maps of the batch are computed: all; the first counts[n] of every image's; those whose label is not negative.
ALL, COUNTED, LABELLED = 0, 1, 2


@triton.jit
def relu(value):
    """As torch's: NaN stays."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def wanted_rows(
    image,  # [rows] number of the map that a row belongs to
    choice,  # counts [N] or labels [K], as WANTED says
    per_image,  # K / N
    WANTED: tl.constexpr,  # ALL, COUNTED or LABELLED
    mask,  # [rows] rows there are
):
    """Whether the map `image` of each row is to be computed."""
    live = mask
    if WANTED == 1:
        live &= image % per_image < tl.load(choice + image // per_image, mask=mask, other=0)
    if WANTED == 2:
        live &= tl.load(choice + image, mask=mask, other=-1) >= 0
    return live


@triton.jit
def nearest(place, size, out_size):
    """The source pixel of a line or column of the result, as torch's nearest resampling chooses it."""
    step = tl.div_rn(size.to(tl.float32), out_size.to(tl.float32))
    return tl.minimum((place.to(tl.float32) * step).to(tl.int32), size - 1)


@triton.jit
def combined(
    total,  # [rows, o] float32, the sum with its bias
    other,  # [rows, o] float32, of the second map
    EPILOGUE: tl.constexpr,  # RELU, FLOW, ...
    HAS_EXTRA: tl.constexpr,
):
    """ReLU and the second map as EPILOGUE says."""
    if EPILOGUE == 1:
        if HAS_EXTRA:
            total += other
        total = relu(total)
    if EPILOGUE == 2:
        total = relu(total) + other
    if EPILOGUE == 3:
        total = tl.where(total > 0, other, 0.0)
    if EPILOGUE >= 4 and HAS_EXTRA:
        total += other
    return total


@triton.jit
def epilogue(
    total,  # [rows, o] float32, the sum
    bias,  # [outputs]
    extra,  # a second map, where HAS_EXTRA
    out,  # [K, H, W, outputs]
    place,  # [rows, o] where in out
    other_place,  # [rows, o] where in extra
    known,  # [rows, o] whether that is inside
    live,  # [rows] whether the row is wanted: others give zeros
    o,  # [o] outputs of this tile
    outputs,
    EPILOGUE: tl.constexpr,  # PLAIN, RELU, ...
    HAS_EXTRA: tl.constexpr,
):
    """Bias, second map and ReLU as EPILOGUE says, and the store."""
    if EPILOGUE != 0:
        total += tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        other = total
        if HAS_EXTRA:
            other = tl.load(extra + other_place, mask=known & live[:, None], other=0.0).to(tl.float32)
        total = combined(total, other, EPILOGUE, HAS_EXTRA)
    tl.store(out + place, tl.where(live[:, None], total, 0.0).to(out.dtype.element_ty), mask=known)
