"""The end of a mask head for one class per map, by programs that keep the deconvolution's weights.

A corner's weights, 128 KB for 256 channels in 16 bits, stay in a program's shared memory, and tiles of pixels stream
past them. Where a program meets every tile with all the weights, it is their bytes from the L2 cache that bound it.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.epilogue import relu
from htc_fast.ops.triton.launch import cdiv, launch, power_of_two
from htc_fast.ops.triton.tiles import Device

ROWS = 64  # of a tile; no more than a map's pixels, so that a tile touches two maps at most
LABELS = 1024  # that a program reads at a time, looking for the last one


@triton.jit
def labels_of(labels, image, count):
    """The labels of a map and of the one behind it; -1 where there is none."""
    near = tl.load(labels + image, mask=image < count, other=-1)
    return near, tl.load(labels + image + 1, mask=image + 1 < count, other=-1)


@triton.jit
def rows_to_compute(labels, count, pixels, classes, LABELS: tl.constexpr):
    """How many rows there are up to the last map whose label is a class."""
    last = count * 0
    for start in range(0, count, LABELS):
        image = start + tl.arange(0, LABELS)
        label = tl.load(labels + image, mask=image < count, other=-1)
        last = tl.maximum(last, tl.max(tl.where((label >= 0) & (label < classes), image + 1, 0), axis=0))
    return last * pixels


@triton.jit
def place_of(row, image, corner, height, width):
    """Where a corner of input pixel `row`, of map `image`, lies among the pixels of the output."""
    pixel = row - image * (height * width)
    # Exact below 2**20 pixels of a map, and a tenth of an integer division's instructions.
    y = ((pixel.to(tl.float32) + 0.5) / width.to(tl.float32)).to(tl.int32)
    line = image.to(tl.int64) * (2 * height) + (2 * y + corner // 2)
    return line * (2 * width) + (2 * (pixel - y * width) + corner % 2)


@triton.jit
def own_weights(weight, near, far, o, outputs, is_near):
    """The logits' weights for every row of a tile: of class `near` in its first map, of `far` in its second."""
    first = tl.load(weight + near * outputs + o, mask=o < outputs, other=0.0).to(tl.float32)
    second = tl.load(weight + far * outputs + o, mask=o < outputs, other=0.0).to(tl.float32)
    return tl.where(is_near[:, None], first[None, :], second[None, :])


@triton.jit(do_not_specialize=["rows", "height", "width", "strips"])
def predict_class_resident_kernel(
    x,  # [rows, channels], one pixel per row
    up_weight,  # [channels, 2, 2, outputs]
    up_bias,  # [outputs]
    weight,  # [classes, outputs]
    bias,  # [classes]
    labels,  # [K]: the class wanted of each map; no class gives zeros
    out,  # [K, 2H, 2W]
    rows,  # K * H * W
    height,
    width,
    channels,
    outputs,
    classes,
    share,  # of this head in the mean
    strips,  # programs per corner
    MEAN: tl.constexpr,  # as in `predict_class_kernel`
    ROWS: tl.constexpr,  # of a tile
    OUTPUTS: tl.constexpr,  # outputs, as a power of two,
    CHANNELS: tl.constexpr,  # and channels
    LABELS: tl.constexpr,  # read at a time
):
    """The logit of each map's own class. One program: one corner of every strips-th tile."""
    HALF: tl.constexpr = OUTPUTS // 2
    corner, first = tl.program_id(0) % 4, tl.program_id(0) // 4
    pixels = height * width
    count = rows // pixels
    computed = tl.cdiv(rows_to_compute(labels, count, pixels, classes, LABELS), ROWS)
    c, o = tl.arange(0, CHANNELS), tl.arange(0, HALF)
    # Two halves of the outputs: the tensor cores multiply the second while the first one's sum is made.
    other = HALF + o
    columns = up_weight + ((c * 4 * outputs)[:, None] + (corner * outputs + o)[None, :])
    there = (c < channels)[:, None]
    right = tl.load(columns, mask=there & (o < outputs)[None, :], other=0.0)
    other_right = tl.load(columns + HALF, mask=there & (other < outputs)[None, :], other=0.0)
    # Subtracted, not added: Triton would start the sum with a bias that is added, which takes registers and an order.
    minus = -tl.load(up_bias + o, mask=o < outputs, other=0.0).to(tl.float32)
    other_minus = -tl.load(up_bias + other, mask=other < outputs, other=0.0).to(tl.float32)
    near, far = labels_of(labels, first * ROWS // pixels, count)
    for tile in range(first, computed, strips):
        # What is read here lies ready when the products are done. Labels are read a tile ahead: addresses need them.
        row, image = tile * ROWS + tl.arange(0, ROWS), tile * ROWS // pixels
        near_live, far_live = (near >= 0) & (near < classes), (far >= 0) & (far < classes)
        near_own, far_own = tl.where(near_live, near, 0).to(tl.int32), tl.where(far_live, far, 0).to(tl.int32)
        near, far = labels_of(labels, (tile + strips) * ROWS // pixels, count)
        is_near = row < (image + 1) * pixels
        own = own_weights(weight, near_own, far_own, o, outputs, is_near)
        other_own = own_weights(weight, near_own, far_own, other, outputs, is_near)
        total = tl.where(is_near, tl.load(bias + near_own).to(tl.float32), tl.load(bias + far_own).to(tl.float32))
        place = out + place_of(row, tl.where(is_near, image, image + 1), corner, height, width)
        if MEAN == 2:
            before = tl.load(place, mask=row < rows, other=0.0)
        known = (row < rows)[:, None] & (c < channels)[None, :]
        left = tl.load(x + (row.to(tl.int64)[:, None] * channels + c[None, :]), mask=known, other=0.0)
        up = tl.dot(left, right)
        other_up = tl.dot(left, other_right)
        up = relu(up - minus[None, :]) * own
        total += tl.sum(up + relu(other_up - other_minus[None, :]) * other_own, axis=1)
        if MEAN != 0:
            total = share * tl.sigmoid(total)
            if MEAN == 2:
                total += before
        live = tl.where(is_near, near_live, far_live)
        tl.store(place, tl.where(live, total, 0.0).to(out.dtype.element_ty), mask=row < rows)
    # What is added to stays as it is.
    if MEAN != 2:
        skipped = first + tl.cdiv(tl.maximum(computed - first, 0), strips) * strips
        for tile in range(skipped, tl.cdiv(rows, ROWS), strips):
            row, image = tile * ROWS + tl.arange(0, ROWS), tile * ROWS // pixels
            place = place_of(row, tl.where(row < (image + 1) * pixels, image, image + 1), corner, height, width)
            tl.store(out + place, tl.zeros((ROWS,), out.dtype.element_ty), mask=row < rows)


@dataclass(frozen=True)
class Plan:
    """Programs per corner, padded sizes, and the tiles that are on their way."""

    strips: int
    outputs: int
    channels: int
    stages: int


def plan_for(x: Tensor, outputs: int, device: Device) -> Plan | None:
    """How x [K, C, H, W] is done on this device; None where weights and two tiles are more than it holds."""
    count, channels, height, width = x.shape
    if (
        not device.resident
        or x.element_size() != 2
        or not ROWS <= height * width < 2**20
        or max(channels, outputs) > 256
    ):
        return None
    wide, deep = power_of_two(outputs, 256, 32), power_of_two(channels, 256)
    tiles = cdiv(count * height * width, ROWS)
    strips = max(1, min(device.processors // 4, tiles))
    for stages in (3, 2):
        if 2 * deep * (wide + ROWS * stages) + 2048 <= device.shared:
            return Plan(strips, wide, deep, stages)
    return None


def predict_class_resident(
    given: list[Tensor], out: Tensor, sizes: tuple[int, ...], plan: Plan, mean: int, share: float
) -> None:
    """Fill out as `predict_class` does; given: x, up_weight, up_bias, weight, bias, labels."""
    blocks = {"ROWS": ROWS, "OUTPUTS": plan.outputs, "CHANNELS": plan.channels, "LABELS": LABELS}
    options = {"num_warps": 8, "num_stages": plan.stages, "enable_fp_fusion": True}
    numbers = *sizes, share, plan.strips
    kernel, programs = predict_class_resident_kernel, 4 * plan.strips
    launch(kernel, programs, out.device, *given, out, *numbers, MEAN=mean, **blocks, **options)
