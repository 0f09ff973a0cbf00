"""Where RoIAlign samples, and what each cell of the map weighs; device functions for the forward and both backwards.

A bin's value is the mean of evenly spaced bilinear samples. Bilinear weights are separable, and samples of one bin hit
the same cells again and again, so each axis is first summed up into one weight per cell.
Compiled without fused multiply-add, so that sample counts and borders come out as in the reference.
"""

import triton
import triton.language as tl


@triton.jit
def pick(values, index):
    """values[index] for a tuple of kernel arguments."""
    chosen = values[0]
    for i in tl.static_range(1, len(values)):
        chosen = tl.where(index == i, values[i], chosen)
    return chosen


@triton.jit
def size_of(sizes, index):
    """sizes[index] of numbers passed as `launch.odd`."""
    return (pick(sizes, index) - 3) // 2


@triton.jit
def load_box(rois, k, per_image, images, HAS_IMAGE: tl.constexpr, mask=True):
    """RoI k of [K, 5] or [N, R, 4]: image, x1, y1, x2, y2, and whether they can be used."""
    if HAS_IMAGE:
        row = rois + k * 5
        image = tl.load(row, mask=mask, other=-1.0)
        known = (image > -1.0) & (image < images)
        image = tl.where(known, image, 0.0).to(tl.int32)
        row += 1
    else:
        row = rois + k * 4
        image = (k // per_image).to(tl.int32)
        known = image < images
    x1 = tl.load(row, mask=mask, other=float("nan"))
    y1 = tl.load(row + 1, mask=mask, other=float("nan"))
    x2 = tl.load(row + 2, mask=mask, other=float("nan"))
    y2 = tl.load(row + 3, mask=mask, other=float("nan"))
    # Comparisons with NaN are false; sizes that overflow count as infinite.
    largest = tl.maximum(tl.maximum(tl.abs(x1), tl.abs(y1)), tl.maximum(tl.abs(x2), tl.abs(y2)))
    finite = (x1 == x1) & (y1 == y1) & (x2 == x2) & (y2 == y2) & (largest < 1e30)
    return image, x1, y1, x2, y2, known & finite


@triton.jit
def level_of(x1, y1, x2, y2, finest_size, LEVELS: tl.constexpr):
    """Index of the map that a box is read from: those of side finest_size * 2^k to twice that, as csrc/geometry.h."""
    size = tl.div_rn(tl.sqrt_rn(tl.maximum((x2 - x1) * (y2 - y1), 0.0)), finest_size) + 1e-6
    level = (size < 0.0).to(tl.int32)  # of none: zeros
    for edge in tl.static_range(1, LEVELS):
        level += (size >= 2.0**edge).to(tl.int32)
    return level


@triton.jit
def along(low, high, scale, sampling_ratio, bins, ALIGNED: tl.constexpr):
    """One axis of a RoI in cells of its map: start, length of a bin, samples per bin, distance between samples."""
    offset = 0.5 if ALIGNED else 0.0
    start = low * scale - offset
    extent = (high * scale - offset) - start
    if not ALIGNED:
        extent = tl.maximum(extent, 1.0)
    length = tl.div_rn(extent, bins.to(tl.float32))
    adaptive = tl.minimum(tl.maximum(tl.ceil(length), 0.0), 1048576.0)
    samples = tl.where(sampling_ratio > 0, sampling_ratio, adaptive.to(tl.int32))
    return start, length, samples, tl.div_rn(length, tl.maximum(samples, 1).to(tl.float32))


@triton.jit
def window(p, start, length, samples, BINS: tl.constexpr, grid):
    """First coordinate and sample count of output bin p, the mean of one or more bins of a finer grid."""
    first = p * grid // BINS
    last = ((p + 1) * grid + BINS - 1) // BINS
    return start + first.to(tl.float32) * length, (last - first) * samples


@triton.jit
def hat_sum(cell, first, step, count, size, skip, loops):
    """Bilinear weight of `cell` summed over samples skip .. skip + loops - 1; samples off the map weigh nothing."""
    total = (cell + skip + count).to(tl.float32) * 0.0 + first * 0.0
    border = tl.maximum(size - 1, 0).to(tl.float32)
    for i in range(loops):
        sample = skip + i
        at = first + (sample.to(tl.float32) + 0.5) * step
        inside = (at >= -1.0) & (at <= size.to(tl.float32)) & (sample >= 0) & (sample < count)
        nearest = tl.minimum(tl.maximum(at, 0.0), border)
        hat = tl.maximum(1.0 - tl.abs(nearest - cell.to(tl.float32)), 0.0)
        total += tl.where(inside, hat, 0.0)
    return total


@triton.jit
def reach(cell, first, step, most):
    """Which samples can touch `cell`: all of a few, else only those within one cell of it: (skip, loops)."""
    few = (most <= 8) | (tl.abs(step) < 0.25)
    divisor = tl.where(few, 1.0, step)
    ends = tl.minimum((cell.to(tl.float32) - 1.0 - first) / divisor, (cell.to(tl.float32) + 1.0 - first) / divisor)
    skip = tl.floor(tl.minimum(tl.maximum(ends, -8.0), 16777216.0)).to(tl.int32) - 2
    near = tl.ceil(2.0 / tl.abs(divisor)).to(tl.int32) + 5
    return tl.where(few, 0, skip), tl.where(few, most, near)


@triton.jit
def cell_weight(cell, first, step, count, most, size):
    """What `cell` weighs in a bin of `count` samples (`most` bounds it), and 0 off the map."""
    skip, loops = reach(cell, first, step, most)
    weight = hat_sum(cell, first, step, count, size, skip, loops)
    return tl.where((cell >= 0) & (cell < size), weight, 0.0)


@triton.jit
def is_sparse(step, most):
    """Whether samples lie so far apart that going from corner to corner beats going from cell to cell."""
    return (tl.abs(step) > 2.0) & (most <= 64)


@triton.jit
def tap_range(first, step, count, most, size):
    """First cell that a bin touches and how many taps it takes: cells, or sample corners where samples are sparse."""
    one = first + 0.5 * step
    other = first + (count.to(tl.float32) - 0.5) * step
    low = tl.maximum(tl.minimum(tl.minimum(one, other), size.to(tl.float32)), 0.0)
    high = tl.maximum(tl.minimum(tl.maximum(one, other), size.to(tl.float32)), -2.0)
    low_cell = tl.floor(low).to(tl.int32)
    cells = tl.minimum(tl.floor(high).to(tl.int32) + 1, size - 1) - low_cell + 1
    taps = tl.where(is_sparse(step, most), 2 * count, cells)
    return low_cell, tl.where((count > 0) & (size > 0), tl.maximum(taps, 0), 0)


@triton.jit
def tap(j, low_cell, first, step, count, most, size):
    """Cell and weight of tap j; a corner beyond the border weighs nothing and is moved back onto the map."""
    sparse = is_sparse(step, most)
    sample = j // 2
    border = tl.maximum(size - 1, 0).to(tl.float32)
    at = tl.minimum(tl.maximum(first + (sample.to(tl.float32) + 0.5) * step, 0.0), border)
    cell = tl.where(sparse, tl.floor(at).to(tl.int32) + j % 2, low_cell + j)
    skip, loops = reach(cell, first, step, most)
    weight = hat_sum(cell, first, step, count, size, tl.where(sparse, sample, skip), tl.where(sparse, 1, loops))
    return tl.minimum(cell, size - 1), tl.where(cell < size, weight, 0.0)
