"""Detections of overlapping tiles become those of the picture: pieces of one object are joined."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from htc_fast.ops import _backend, _masks, _rle
from htc_fast.ops._arguments import choice, real
from htc_fast.ops._declare import declare
from htc_fast.ops._rle import Runs
from htc_fast.ops.reference import merge_tiles as reference

_backend.register("merge_tiles", "cpp")


class MergedTiles(NamedTuple):
    """G objects, best first, and the number of the one that each of K detections went into."""

    rles: list[dict[str, Any]]
    scores: Any  # [G]
    idxs: Any  # [G], or None
    groups: Any  # [K] int64, -1 for scores that are NaN


def merge_tiles(
    rles: Any, scores: Any, idxs: Any = None, *, threshold: float = 0.5, metric: str = "smaller"
) -> MergedTiles:
    """Join detections that overlap too much to be two: the union of their masks, with the best one's score and class.

    The best detection takes in every other one of its class that overlaps what it has become, until none does; then
    the best of those that are left.

    rles       K COCO RLE dicts, all of the whole picture's size
    scores     [K]  of equal ones the lower index is the better; NaN takes no part
    idxs       [K] classes, any integers; None: all are of one
    threshold  two are joined if their overlap is larger
    metric     "smaller": what both share over the area of the smaller, by which a piece that a seam cut off joins its
               whole; or "iou"
    returns    MergedTiles(rles G, scores [G], idxs [G], groups [K] int64); arrays where one was given
    raises     ValueError, TypeError
    source     SAHI's greedy non-maximum merging, with masks, and repeated until nothing changes
    """
    masks = _masks.one_size("rles", _rle.read("rles", rles))
    count = len(masks.sizes)
    best, classes = _masks.scores_of(scores, count), _masks.classes_of(idxs, count)
    limit, metric = real("threshold", threshold), choice("metric", metric, _masks.METRICS)
    order, kinds = _masks.ranked(best.cpu()), None if classes is None else classes.cpu().contiguous()
    if _masks.native():
        runs, offsets, groups = torch.ops.htc_fast.merge_tiles(*masks, order, kinds, metric == "smaller", limit)
    else:
        runs, offsets, groups = reference.merge_tiles(masks.runs, masks.offsets, order, kinds, metric, limit)
    joined = _rle.write(Runs(runs, offsets, masks.sizes[:1].expand(len(offsets) - 1, 2).contiguous()))
    leaders = _leaders(order, groups, len(joined)).to(best.device)
    like = [_masks.like((scores, idxs), one) for one in (best[leaders], groups.to(best.device))]
    kept = None if classes is None else _masks.like((scores, idxs), classes[leaders.to(classes.device)])
    return MergedTiles(joined, like[0], kept, like[1])


def _leaders(order: Tensor, groups: Tensor, count: int) -> Tensor:
    """Of each of `count` groups the best member."""
    first = torch.full((count,), len(order)).scatter_reduce(0, groups[order], torch.arange(len(order)), "amin")
    return order[first]


def _fake(runs, offsets, sizes, order, classes, smaller, threshold):
    context = torch.library.get_ctx()
    return (
        runs.new_empty(context.new_dynamic_size(), 2),
        runs.new_empty(context.new_dynamic_size()),
        sizes.new_empty(sizes.shape[0]),
    )


declare(
    "merge_tiles(Tensor runs, Tensor offsets, Tensor sizes, Tensor order, Tensor? classes, bool smaller, "
    "float threshold) -> (Tensor, Tensor, Tensor)",
    _fake,
)
