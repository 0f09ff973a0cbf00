"""Non-maximum suppression in Triton, exact per class, for many images at once, without waiting for the device.

Few boxes wanted: one program per image walks down the sorted boxes, 64 at a time, and stops when it has enough.
Many wanted: `nms_matrix`.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.nms_matrix import by_class
from htc_fast.ops.triton.nms_tiles import TILE, load_boxes, overlap, row_bits, settle

WALKED = 256  # up to so many wanted boxes, walking is faster than a matrix


@triton.jit(do_not_specialize=["count", "limit", "width"])
def walk(
    boxes,  # [N, count, 4]
    classes,  # [N, count]
    keys,  # [N, count] scores, best first; -inf: never kept
    order,  # [N, count] which box each of these is
    kept_boxes,  # [N, limit, 4] room for what is kept,
    kept_classes,  # [N, limit] and its classes
    out,  # [N, width] indices of the kept boxes, best first
    counts,  # [N] how many
    count,
    limit,
    width,
    threshold,
):
    """One image: best first in tiles of 64, each against what is kept and then among itself, until `limit` are kept."""
    n = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, TILE)
    found, tile, more = 0, 0, 1
    while more > 0:
        at = tile * TILE + lane
        valid = tl.load(keys + n * count + at, mask=at < count, other=float("-inf")) > float("-inf")
        index = tl.load(order + n * count + at, mask=valid, other=0)
        label = tl.load(classes + n * count + index, mask=valid, other=0)
        box = load_boxes(boxes, n * count + index, valid)
        dead = tl.zeros([TILE], tl.int32)
        # Against all that is kept so far: these are better, and final.
        for start in range(0, found, TILE):
            kept = start + lane
            other = load_boxes(kept_boxes, n * limit + kept, kept < found)
            same = label[:, None] == tl.load(kept_classes + n * limit + kept, mask=kept < found, other=0)[None, :]
            hit = overlap(box, other, threshold) & same & (kept < found)[None, :]
            dead = tl.maximum(dead, tl.max(hit.to(tl.int32), axis=1))
        # Among itself: a box of the tile can fall only to one before it.
        same = (label[:, None] == label[None, :]) & (lane[:, None] > lane[None, :])
        keep, _ = settle(valid & (dead == 0), row_bits(overlap(box, box, threshold) & same))
        slot = found + tl.cumsum(keep.to(tl.int32), axis=0) - 1
        write = keep & (slot < limit)
        tl.store(out + n * width + slot, index, mask=write)
        tl.store(kept_classes + n * limit + slot, label, mask=write)
        for i in tl.static_range(0, 4):
            tl.store(kept_boxes + (n * limit + slot) * 4 + i, box[i], mask=write)
        # The next round reads what other threads of this program wrote.
        tl.debug_barrier()
        found = tl.minimum(found + tl.sum(keep.to(tl.int32), axis=0), limit)
        tile += 1
        # Invalid boxes are sorted to the end: after the first of them nothing can follow.
        more = tl.where((found < limit) & (tl.sum(valid.to(tl.int32), axis=0) == TILE), 1, 0)
    tl.store(counts + n, found)


@triton.jit(do_not_specialize=["count", "width"])
def emit(
    keep,  # [N, count] in the order of scores
    place,  # [N, count] the running count of kept boxes
    order,  # [N, count] which box each is
    out,  # [N, width]
    count,
    width,
    BLOCK: tl.constexpr,
):
    """out[place - 1] = index of each kept box, best first."""
    n = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.load(keep + n * count + at, mask=at < count, other=0) != 0
    slot = tl.load(place + n * count + at, mask=at < count, other=0) - 1
    tl.store(out + n * width + slot, tl.load(order + n * count + at, mask=kept, other=0), mask=kept & (slot < width))


def not_above(threshold: float) -> float:
    """The largest float32 that is not above the threshold: what exceeds it exceeds the threshold in double, too."""
    rounded = torch.tensor(threshold, dtype=torch.float32)
    if rounded.item() > threshold:
        rounded = rounded.nextafter(torch.tensor(-math.inf))
    return rounded.item()


def batched_nms_padded(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, max_output: int, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """See `htc_fast.ops.batched_nms_padded`: boxes [N, B, 4] -> indices [N, max_output], counts [N]."""
    boxes, scores, classes = boxes.detach().float().contiguous(), scores.detach().float(), idxs.long().contiguous()
    images, count = scores.shape
    limit = min(max_output, count)
    out = torch.full((images, max_output), -1, dtype=torch.int64, device=boxes.device)
    counts = torch.zeros(images, dtype=torch.int32, device=boxes.device)
    if limit == 0 or images == 0:
        return out, counts
    iou_threshold = not_above(iou_threshold)
    good = boxes.isfinite().all(dim=2) & (scores > score_threshold)
    keys, order = torch.where(good, scores, -torch.inf).sort(dim=1, descending=True, stable=True)
    if limit <= WALKED:
        kept = boxes.new_empty(images, limit, 4), classes.new_empty(images, limit)
        sizes = count, limit, max_output, iou_threshold
        launch(walk, images, boxes.device, boxes, classes, keys, order, *kept, out, counts, *sizes, num_warps=8)
        return out, counts
    keep = by_class(boxes, classes, keys, order, iou_threshold)
    place = keep.cumsum(dim=1, dtype=torch.int32)
    launch(emit, (triton.cdiv(count, 512), images), boxes.device, keep, place, order, out, count, max_output, BLOCK=512)
    return out, place[:, -1].clamp(max=max_output)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """See `htc_fast.ops.batched_nms`: indices [kept] of boxes [K, 4]; waits for the device, to know how many."""
    idxs = scores.new_zeros(scores.shape, dtype=torch.int64) if idxs is None else idxs
    indices, counts = batched_nms_padded(boxes[None], scores[None], idxs[None], iou_threshold, len(boxes), -math.inf)
    return indices[0, : int(counts)].clone()
