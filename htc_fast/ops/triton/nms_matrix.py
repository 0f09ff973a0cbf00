"""Suppression where many boxes are wanted: by class, from a matrix of bits, without waiting for the device.

Boxes are sorted by (class, score); within a chunk, tiles of 64 x 64 pairs of equal class become words of bits side by
side, each class is resolved by its own program, and what a chunk keeps then suppresses the chunks behind it. Memory is
bounded by the chunk, whatever the number of boxes.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import launch
from htc_fast.ops.triton.nms_tiles import NO_CLASS, NO_CLASS_CODE, TILE, load_boxes, overlap, row_bits, settle

MATRIX_BYTES = 1 << 28


@triton.jit(do_not_specialize=["begin", "tiles", "count"])
def suppressor_words(
    boxes,  # [N, count, 4] by class, best first
    classes,  # [N, count] sorted; NO_CLASS: never kept
    alive,  # [N, count] whether a box may still be kept
    words,  # [N, tiles, tiles, 64] int64
    begin,  # first box of the chunk
    tiles,  # of the chunk
    count,
    threshold,
):
    """words [n, u, v]: which boxes of tile v suppress each box of tile u >= v of the chunk, where classes meet."""
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
def resolve(
    classes,  # [N, count] sorted; NO_CLASS: never kept
    alive,  # [N, count] whether a box may still be kept; becomes whether it is
    rank,  # [N, count] each box's place in the order of scores
    words,  # [N, tiles, tiles, 64] who suppresses whom, of `suppressor_words`
    kept_words,  # [N, 2, tiles] what a tile keeps of the classes that begin in it, and of the one that runs into it
    keep,  # [N, count] in the order of scores: whether a box is kept
    begin,  # first box of the chunk
    tiles,  # of the chunk
    count,
    BLOCK: tl.constexpr,  # tiles that are looked back on at once
):
    """Keep or drop the boxes of a chunk. One program per tile: it settles the classes that begin there, to their end.

    Classes do not touch one another, so programs need not wait for one another: a class that runs over many tiles is
    one program's, which goes through them in order.
    """
    t = tl.program_id(0)
    n = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, TILE)
    words += n * tiles * tiles * TILE
    kept_words += n * 2 * tiles
    classes, alive, rank, keep = classes + n * count, alive + n * count, rank + n * count, keep + n * count
    at = begin + t * TILE + lane
    label = tl.load(classes + at, mask=at < count, other=NO_CLASS_CODE)
    # What stands before the tile's first beginning is the end of a class that an earlier tile's program settles. At the
    # chunk's first box a class begins in any case: what earlier chunks kept of it has done its work.
    left = tl.load(classes + at - 1, mask=(at > begin) & (at - 1 < count), other=NO_CLASS_CODE)
    begins = (at == begin) | (label != left)
    mine = (lane >= tl.min(tl.where(begins, lane, TILE), axis=0)) & (label != NO_CLASS_CODE)
    u, more = t, tl.max(mine.to(tl.int32), axis=0)
    # Only the last class of the tile can run on; boxes of no class sort behind all, so that then none does.
    last = tl.max(label, axis=0)
    while more > 0:
        candidate = mine & (tl.load(alive + at, mask=at < count, other=0) != 0)
        hits = tl.zeros([BLOCK, TILE], tl.int64)
        # Everything of this class before tile u is final: a candidate falls to any suppressor that was kept there.
        for start in range(t, u, BLOCK):
            v = start + tl.arange(0, BLOCK)
            # Two words per tile, as two programs write them: what begins in it, and what runs into it.
            word = tl.load(kept_words + tl.where(v == t, 0, tiles) + v, mask=v < u, other=0)
            place = (u.to(tl.int64) * tiles + v)[:, None] * TILE + lane[None, :]
            hits |= tl.load(words + place, mask=(v < u)[:, None], other=0) & word[:, None]
        dead = tl.max((hits != 0).to(tl.int32), axis=0)
        # Within the tile boxes suppress one another in turn, which takes rounds.
        suppressors = tl.load(words + (u.to(tl.int64) * tiles + u) * TILE + lane)
        kept, word = settle(candidate & (dead == 0), suppressors)
        tl.store(kept_words + tl.where(u == t, 0, tiles) + u, word)
        tl.store(alive + at, kept.to(tl.int8), mask=mine)
        tl.store(keep + tl.load(rank + at, mask=mine, other=0), kept.to(tl.int8), mask=mine)
        # The next round reads the word that one thread of this program wrote.
        tl.debug_barrier()
        # On to the next tile as long as the class at the end of this one runs on.
        u += 1
        at = begin + u * TILE + lane
        here = (at < count) & (at < begin + tiles * TILE)
        label = tl.load(classes + at, mask=here, other=NO_CLASS_CODE)
        mine = (label == last) & (label != NO_CLASS_CODE)
        more = tl.max(mine.to(tl.int32), axis=0)


@triton.jit(do_not_specialize=["begin", "tiles", "count"])
def suppress_later(
    boxes,  # [N, count, 4] by class, best first
    classes,  # [N, count] sorted
    alive,  # [N, count] within the chunk what is kept, behind it what may still be
    begin,  # first box of the chunk
    tiles,  # of the chunk
    count,
    threshold,
):
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


def by_class(boxes: Tensor, classes: Tensor, keys: Tensor, order: Tensor, iou_threshold: float) -> Tensor:
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
        behind = triton.cdiv(max(0, count - begin - 64 * here), 64)
        device, chunk = boxes.device, (begin, here, count)
        pairs = *chunk, iou_threshold
        launch(suppressor_words, (here * here, images), device, boxes, labels, alive, words, *pairs, num_warps=8)
        launch(resolve, (here, images), device, labels, alive, rank, words, kept_words, keep, *chunk, BLOCK=16)
        launch(suppress_later, (behind, images), device, boxes, labels, alive, *pairs, num_warps=8)
    return keep
