"""Non-maximum suppression in Triton, exact per class, for many images at once, without waiting for the device.

Few boxes wanted: one program per image walks down the sorted boxes, 64 at a time, and stops when it has enough.
Many wanted: boxes are sorted by (class, score); within a chunk, tiles of 64 x 64 pairs of equal class become words of
bits side by side, each class is resolved by its own program, and what a chunk keeps then suppresses the chunks behind
it. Memory is bounded by the chunk, whatever the number of boxes.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch

TILE = tl.constexpr(64)
WALKED = 256  # up to so many wanted boxes, walking is faster than a matrix
MATRIX_BYTES = 1 << 28
NO_CLASS = torch.iinfo(torch.int64).max
NO_CLASS_CODE = tl.constexpr(NO_CLASS)


@triton.jit
def load_boxes(boxes, at, mask):
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


@triton.jit(do_not_specialize=["count", "limit", "width"])
def walk(boxes, classes, keys, order, kept_boxes, kept_classes, out, counts, count, limit, width, threshold):
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
        for start in range(0, found, TILE):
            kept = start + lane
            other = load_boxes(kept_boxes, n * limit + kept, kept < found)
            same = label[:, None] == tl.load(kept_classes + n * limit + kept, mask=kept < found, other=0)[None, :]
            hit = overlap(box, other, threshold) & same & (kept < found)[None, :]
            dead = tl.maximum(dead, tl.max(hit.to(tl.int32), axis=1))
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


@triton.jit(do_not_specialize=["begin", "tiles", "count"])
def suppressor_words(boxes, classes, alive, words, begin, tiles, count, threshold):
    """words [N, u, v, 64]: which boxes of tile v suppress each box of tile u >= v of the chunk, where classes meet."""
    u, v = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    n = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, TILE)
    at_u, at_v = begin + u * TILE + lane, begin + v * TILE + lane
    label_u = tl.load(classes + n * count + at_u, mask=at_u < count, other=NO_CLASS_CODE)
    label_v = tl.load(classes + n * count + at_v, mask=at_v < count, other=NO_CLASS_CODE)
    # Classes are sorted, so tiles whose ranges do not touch share none; nobody reads their words.
    first = tl.min(label_u, axis=0)
    if (v <= u) & (first <= tl.max(label_v, axis=0)) & (first != NO_CLASS_CODE):
        alive_v = tl.load(alive + n * count + at_v, mask=at_v < count, other=0) != 0
        box_u = load_boxes(boxes, n * count + at_u, at_u < count)
        box_v = load_boxes(boxes, n * count + at_v, at_v < count)
        same = (label_u[:, None] == label_v[None, :]) & (at_u[:, None] > at_v[None, :]) & alive_v[None, :]
        word = row_bits(overlap(box_u, box_v, threshold) & same)
        tl.store(words + ((n * tiles + u) * tiles + v) * TILE + lane, word)


@triton.jit(do_not_specialize=["begin", "tiles", "count"])
def resolve(classes, alive, rank, words, kept_words, keep, begin, tiles, count, BLOCK: tl.constexpr):
    """Keep or drop the boxes of a chunk. One program per tile: it settles the classes that begin there, to their end.

    kept_words [N, 2, tiles]: what a tile keeps of the classes that begin in it, and of the one that runs into it.
    """
    t = tl.program_id(0)
    n = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, TILE)
    words += n * tiles * tiles * TILE
    kept_words += n * 2 * tiles
    classes, alive, rank, keep = classes + n * count, alive + n * count, rank + n * count, keep + n * count
    at = begin + t * TILE + lane
    label = tl.load(classes + at, mask=at < count, other=NO_CLASS_CODE)
    left = tl.load(classes + at - 1, mask=(at > begin) & (at - 1 < count), other=NO_CLASS_CODE)
    begins = (at == begin) | (label != left)
    mine = (lane >= tl.min(tl.where(begins, lane, TILE), axis=0)) & (label != NO_CLASS_CODE)
    u, more = t, tl.max(mine.to(tl.int32), axis=0)
    last = tl.max(label, axis=0)
    while more > 0:
        candidate = mine & (tl.load(alive + at, mask=at < count, other=0) != 0)
        hits = tl.zeros([BLOCK, TILE], tl.int64)
        for start in range(t, u, BLOCK):
            v = start + tl.arange(0, BLOCK)
            word = tl.load(kept_words + tl.where(v == t, 0, tiles) + v, mask=v < u, other=0)
            place = (u.to(tl.int64) * tiles + v)[:, None] * TILE + lane[None, :]
            hits |= tl.load(words + place, mask=(v < u)[:, None], other=0) & word[:, None]
        dead = tl.max((hits != 0).to(tl.int32), axis=0)
        suppressors = tl.load(words + (u.to(tl.int64) * tiles + u) * TILE + lane)
        kept, word = settle(candidate & (dead == 0), suppressors)
        tl.store(kept_words + tl.where(u == t, 0, tiles) + u, word)
        tl.store(alive + at, kept.to(tl.int8), mask=mine)
        tl.store(keep + tl.load(rank + at, mask=mine, other=0), kept.to(tl.int8), mask=mine)
        tl.debug_barrier()
        # On to the next tile as long as the class at the end of this one runs on.
        u += 1
        at = begin + u * TILE + lane
        here = (at < count) & (at < begin + tiles * TILE)
        label = tl.load(classes + at, mask=here, other=NO_CLASS_CODE)
        mine = (label == last) & (label != NO_CLASS_CODE)
        more = tl.max(mine.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["begin", "tiles", "count"])
def suppress_later(boxes, classes, alive, begin, tiles, count, threshold):
    """Boxes behind the chunk that belong to its last class are dropped where a kept box of the chunk overlaps them."""
    n = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, TILE)
    end = begin + tiles * TILE
    at = end + tl.program_id(0) * TILE + lane
    boxes, classes, alive = boxes + n * count * 4, classes + n * count, alive + n * count
    label = tl.load(classes + end - 1)
    mine = tl.load(classes + at, mask=at < count, other=NO_CLASS_CODE) == label
    if (tl.max(mine.to(tl.int32), axis=0) > 0) & (label != NO_CLASS_CODE):
        box = load_boxes(boxes, at, mine)
        dead = tl.zeros([TILE], tl.int32)
        for start in range(begin, end, TILE):
            better = start + lane
            kept = (tl.load(alive + better) != 0) & (tl.load(classes + better) == label)
            if tl.max(kept.to(tl.int32), axis=0) > 0:
                hit = overlap(box, load_boxes(boxes, better, kept), threshold) & kept[None, :]
                dead = tl.maximum(dead, tl.max(hit.to(tl.int32), axis=1))
        tl.store(alive + at, tl.zeros([TILE], tl.int8), mask=mine & (dead != 0))


@triton.jit(do_not_specialize=["count", "width"])
def emit(keep, place, order, out, count, width, BLOCK: tl.constexpr):
    """out[place - 1] = index of each kept box, best first; place is the running count of kept boxes."""
    n = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = tl.load(keep + n * count + at, mask=at < count, other=0) != 0
    slot = tl.load(place + n * count + at, mask=at < count, other=0) - 1
    tl.store(out + n * width + slot, tl.load(order + n * count + at, mask=kept, other=0), mask=kept & (slot < width))


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
    good = boxes.isfinite().all(dim=2) & (scores > score_threshold)
    keys, order = torch.where(good, scores, -torch.inf).sort(dim=1, descending=True, stable=True)
    if limit <= WALKED:
        kept_boxes, kept_classes = boxes.new_empty(images, limit, 4), classes.new_empty(images, limit)
        launch(walk, images, boxes.device, boxes, classes, keys, order, kept_boxes, kept_classes, out, counts, count,
               limit, max_output, iou_threshold, num_warps=8)  # fmt: skip
        return out, counts
    keep = _by_class(boxes, classes, keys, order, iou_threshold)
    place = keep.cumsum(dim=1, dtype=torch.int32)
    launch(emit, (triton.cdiv(count, 512), images), boxes.device, keep, place, order, out, count, max_output, BLOCK=512)
    return out, place[:, -1].clamp(max=max_output)


def _by_class(boxes: Tensor, classes: Tensor, keys: Tensor, order: Tensor, iou_threshold: float) -> Tensor:
    """Flags [N, B] in the order of scores: which boxes are kept."""
    images, count = keys.shape
    valid = keys > -torch.inf
    labels = torch.where(valid, classes.gather(1, order).clamp(max=NO_CLASS - 1), NO_CLASS)
    labels, rank = labels.sort(dim=1, stable=True)
    alive = valid.gather(1, rank).to(torch.int8)
    boxes = boxes.gather(1, order.gather(1, rank)[:, :, None].expand(-1, -1, 4))
    keep = torch.zeros_like(alive)
    most = max(4, min(128, math.isqrt(MATRIX_BYTES // (512 * images))))
    tiles = min(most, triton.cdiv(count, 64))
    words = torch.empty(images, tiles, tiles, 64, dtype=torch.int64, device=boxes.device)
    kept_words = torch.empty(images, 2, tiles, dtype=torch.int64, device=boxes.device)
    for begin in range(0, count, 64 * tiles):
        here = min(tiles, triton.cdiv(count - begin, 64))
        launch(suppressor_words, (here * here, images), boxes.device, boxes, labels, alive, words, begin, here, count,
               iou_threshold, num_warps=8)  # fmt: skip
        launch(resolve, (here, images), boxes.device, labels, alive, rank, words, kept_words, keep, begin, here, count,
               BLOCK=16, num_warps=4)  # fmt: skip
        behind = triton.cdiv(max(0, count - begin - 64 * here), 64)
        launch(suppress_later, (behind, images), boxes.device, boxes, labels, alive, begin, here, count, iou_threshold,
               num_warps=8)  # fmt: skip
    return keep


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """See `htc_fast.ops.batched_nms`: indices [kept] of boxes [K, 4]; waits for the device, to know how many."""
    idxs = scores.new_zeros(scores.shape, dtype=torch.int64) if idxs is None else idxs
    indices, counts = batched_nms_padded(boxes[None], scores[None], idxs[None], iou_threshold, len(boxes), -math.inf)
    return indices[0, : int(counts)].clone()
