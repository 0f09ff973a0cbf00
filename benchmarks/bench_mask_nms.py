"""Non-maximum suppression by masks beside the matrix that pycocotools gives and a loop, and the joining of tiles."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks.cases import number, select
from htc_fast import ops

USUAL = [(1000, (1080, 1920)), (300, (480, 640))]
REST = [(5000, (4000, 6000))]
MATRIX = 2000  # more masks than this are not compared with each other


def detections(draw, count: int, image: tuple[int, int]) -> tuple[list[dict], torch.Tensor]:
    masks, boxes = (one.cpu() for one in draw.soft_masks(count, image))
    return ops.encode_masks(masks, boxes, draw.size(image)), torch.rand(len(masks), generator=torch.manual_seed(0))


def by_matrix(rles: list[dict], scores: torch.Tensor, threshold: float) -> torch.Tensor:
    overlaps, gone, kept = coco_mask.iou(rles, rles, [0] * len(rles)), np.zeros(len(rles), bool), []
    for k in scores.argsort(descending=True, stable=True).tolist():
        if not gone[k]:
            kept.append(k)
            gone |= overlaps[k] > threshold
    return torch.tensor(kept)


def same(ours, other, who):
    assert torch.equal(ours, other), f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), select(USUAL, USUAL[:1], REST))
def bench_suppress(compare, draw, count, image):
    rles, scores = detections(draw, count, image)
    calls = {"htc_fast": lambda: ops.mask_nms(rles, scores, 0.5)}
    if count <= MATRIX:
        calls["pycocotools' matrix, a loop"] = lambda: by_matrix(rles, scores, 0.5)
    gigabytes = sum(len(one["counts"]) for one in rles) / 1e9
    case = f"{number(count)} run lengths at {image[0]}×{image[1]}"
    compare(case, calls, same, backend="cpp", gigabytes=gigabytes)


def by_pairs(rles: list[dict], scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """SAHI's way: whoever overlaps the best too much goes into it, pair by pair; then what is left."""
    order, groups, group = scores.argsort(descending=True, stable=True).tolist(), torch.full((len(rles),), -1), 0
    while order:
        leader, *order = order
        grown, groups[leader], joined = rles[leader], group, True
        while joined and order:
            some = [rles[k] for k in order]
            shared = np.maximum(coco_mask.iou(some, [grown], [1]), coco_mask.iou([grown], some, [1] * len(some)).T)
            joined = bool((shared > threshold).any())
            if joined:
                k = order.pop(int((shared > threshold).argmax()))
                grown, groups[k] = coco_mask.merge([grown, rles[k]]), group
        group += 1
    return groups


@pytest.mark.parametrize(("count", "image"), select(USUAL[1:], [], USUAL))
def bench_merge_tiles(compare, draw, count, image):
    rles, scores = detections(draw, count, image)
    calls = {
        "htc_fast": lambda: ops.merge_tiles(rles, scores, threshold=0.8),
        "pycocotools, pair by pair": lambda: by_pairs(rles, scores, 0.8),
    }

    def as_many(ours, other, who):
        # They come in another order, and what has grown by others first is larger: nearly the same groups.
        assert abs(len(ours.rles) - int(other.max()) - 1) <= 0.05 * len(rles) + 1, f"differs from {who}"

    gigabytes = sum(len(one["counts"]) for one in rles) / 1e9
    case = f"joining {number(count)} run lengths at {image[0]}×{image[1]}"
    compare(case, calls, as_many, backend="cpp", gigabytes=gigabytes)
