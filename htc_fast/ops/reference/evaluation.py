"""COCO evaluation in plain Python: masks as bitmaps, one detection after the other."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from htc_fast.ops.reference.rle import read_runs


def measure_masks(text: Tensor, offsets: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Strings one after another -> areas [K], boxes [K, 4] (x, y, w, h), faults [K]."""
    areas, boxes, faults = [], [], []
    for k in range(len(sizes)):
        bitmap, fault = _bitmap(text, offsets, sizes, k)
        box = [0, 0, 0, 0]
        if bitmap.any():
            rows, columns = bitmap.any(1).nonzero()[:, 0], bitmap.any(0).nonzero()[:, 0]
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        areas.append(int(bitmap.sum()))
        boxes.append(box)
        faults.append(fault)
    return (
        torch.tensor(areas, dtype=torch.float64),
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(faults, dtype=torch.uint8),
    )


def match_detections(rules: Any, found: Any, truth: Any) -> tuple[Tensor, Tensor]:
    """Rules and Cells of ops._evaluation -> matched and uncounted, int16 [D, A]."""
    matched = torch.zeros(len(found.order), len(rules.ranges), dtype=torch.int64)
    uncounted = torch.zeros_like(matched)
    for cell, lenient in enumerate(rules.lenient.tolist()):
        (first, last), (start, end) = (one.ends[cell : cell + 2].tolist() for one in (found, truth))
        mine, its = found.order[first:last].tolist(), truth.order[start:end].tolist()
        ious = [[_iou(rules, found, truth, d, g) for g in its] for d in mine]
        for index, (low, high) in enumerate(rules.ranges.tolist()):
            counts = [not rules.ignored[g] and low <= float(truth.areas[g]) <= high for g in its]
            order = sorted(range(len(its)), key=lambda g: not counts[g])
            for bit, threshold in enumerate(rules.thresholds.tolist()):
                taken: set[int] = set()
                for d, row in enumerate(ious):
                    match = _best(row, order, counts, taken, rules.crowd[its].tolist(), min(threshold, 1 - 1e-10))
                    if match is None:
                        outside = not low <= float(found.areas[mine[d]]) <= high
                        uncounted[first + d, index] |= (outside or bool(lenient)) << bit
                        continue
                    taken.add(match)
                    matched[first + d, index] |= 1 << bit
                    uncounted[first + d, index] |= (not counts[match]) << bit
    return matched.to(torch.int16), uncounted.to(torch.int16)


def _best(row: list, order: list, counts: list, taken: set, crowd: list, least: float) -> int | None:
    """The truth that overlaps a detection most, the last of equals; one that counts before any that does not."""
    match = None
    for g in order:
        if g in taken and not crowd[g]:
            continue
        if match is not None and counts[match] and not counts[g]:
            break
        if row[g] >= least:
            least, match = row[g], g
    return match


def _iou(rules: Any, found: Any, truth: Any, d: int, g: int) -> float:
    crowd = bool(rules.crowd[g])
    if rules.by == "boxes":
        (x, y, w, h), (left, top, width, height) = found.boxes[d].tolist(), truth.boxes[g].tolist()
        across = min(x + w, left + width) - max(x, left)
        down = min(y + h, top + height) - max(y, top)
        shared = across * down if across > 0 and down > 0 else 0.0
        return shared / (w * h if crowd else w * h + width * height - shared) if shared else 0.0
    mine, its = (_bitmap(one.text, one.offsets, one.sizes, k)[0] for one, k in ((found, d), (truth, g)))
    iou = _mask_iou(mine, its, crowd)
    if rules.by == "masks" or crowd:
        return iou
    return min(iou, _mask_iou(_boundary(mine, rules.boundary), _boundary(its, rules.boundary), False))


def _mask_iou(a: Tensor, b: Tensor, crowd: bool) -> float:
    shared = int((a & b).sum())
    return shared / int(a.sum() if crowd else (a | b).sum()) if shared else 0.0


def _boundary(mask: Tensor, ratio: float) -> Tensor:
    """What a square around each pixel does not keep; beyond the picture there is nothing."""
    height, width = mask.shape
    thick = max(1, round(ratio * (height**2 + width**2) ** 0.5))
    outside = F.pad(~mask[None, None], [thick] * 4, value=True).double()
    # One side after the other: a square of 2 * thick + 1 pixels.
    near = F.max_pool2d(F.max_pool2d(outside, (2 * thick + 1, 1), stride=1), (1, 2 * thick + 1), stride=1)
    return mask & near[0, 0].bool()


def precision_curves(
    ends: Tensor,
    ranks: Tensor,
    scores: Tensor,
    matched: Tensor,
    uncounted: Tensor,
    truths: Tensor,
    recalls: Tensor,
    most: Tensor,
    thresholds: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ops._evaluation: COCOeval's precision, recall and scores."""
    (classes, ranges), limits = truths.shape, len(most)
    precision = torch.full((thresholds, len(recalls), classes, ranges, limits), -1.0, dtype=torch.float64)
    recall, score_at = precision[:, 0].clone(), precision.clone()
    for label in range(classes):
        order = ends[label] + scores[ends[label] : ends[label + 1]].argsort(descending=True, stable=True)
        for index, limit in torch.cartesian_prod(torch.arange(ranges), torch.arange(limits)).tolist():
            count, kept = int(truths[label, index]), order[ranks[order] < most[limit]]
            for t in range(thresholds) if count else ():
                hit, counts = matched[kept, index] >> t & 1, ~uncounted[kept, index] >> t & 1
                hits, misses = ((one & counts).cumsum(0).double() for one in (hit, 1 - hit))
                curve = hits / (misses + hits + torch.finfo(torch.float64).eps)
                highest = curve.flip(0).cummax(0).values.flip(0) if len(kept) else curve
                places = torch.searchsorted(hits / count, recalls)
                there = places < len(kept)
                cell = (slice(None), label, index, limit)
                precision[t][cell] = score_at[t][cell] = 0.0
                precision[t][cell][there] = highest[places[there]]
                score_at[t][cell][there] = scores[kept][places[there]]
                recall[t, label, index, limit] = hits[-1] / count if len(kept) else 0.0
    return precision, recall, score_at


def _bitmap(text: Tensor, offsets: Tensor, sizes: Tensor, k: int) -> tuple[Tensor, int]:
    """Mask k, bool [H, W], and its fault."""
    height, width = sizes[k].tolist()
    runs, _, faults = read_runs([bytes(text[offsets[k] : offsets[k + 1]].tolist())], [(height, width)])
    flat = torch.zeros(height * width, dtype=torch.bool)
    for begin, end in runs.tolist():
        flat[begin:end] = True
    return flat.reshape(width, height).T, int(faults[0])
