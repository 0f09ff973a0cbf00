"""Mask pasting beside torchvision's, detectron2's, mmdetection's and plain PyTorch, eager and compiled."""

import pytest

from benchmarks import rivals
from benchmarks.cases import as_on_the_cpu, plural, select
from htc_fast import ops

COUNTS, IMAGES = (1, 100, 1000), ((480, 640), (800, 1333), (4000, 6000))
USUAL = [(100, (800, 1333)), (1, (480, 640)), (1000, (480, 640)), (20, (4000, 6000))]
QUICK = USUAL[:1]
BYTES = 6e9  # of pasted masks: more is only encoded
REST = [(count, image) for count in COUNTS for image in IMAGES]
FITTING = [(count, image) for count, image in REST if count * image[0] * image[1] <= BYTES]


def words(count: int, image: tuple[int, int]) -> str:
    return f"{plural(count, 'mask')} at {image[0]}×{image[1]}"


def alike(ours, other, who):
    """torchvision's pixel centres differ by half a pixel: nearly the same area."""
    same = abs(ours.float().mean() - other.float().mean()) < 0.1 * other.float().mean() + 1e-3
    assert same if who == "torchvision" else (ours != other).float().mean() < 1e-4, f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), select(USUAL, QUICK, FITTING))
def bench_paste(compare, draw, count, image):
    masks, boxes = draw.soft_masks(count, image)
    size = draw.size(image)
    paste = lambda masks, boxes: ops.paste_masks(masks, boxes, size)  # noqa: E731
    ours = lambda: paste(masks, boxes)  # noqa: E731
    calls = {
        "htc_fast": ours,
        "torchvision": rivals.torchvision_paste(masks, boxes, size),
        "detectron2": rivals.detectron2_paste(masks, boxes, size),
        "mmdetection": rivals.mmdetection_paste(masks, boxes, size),
    }
    if count * image[0] * image[1] <= 2e8:  # every mask's every pixel in float32, several times
        calls["plain PyTorch"] = rivals.plain(ours)
    if (count, image) in QUICK:
        calls["PyTorch, compiled"] = rivals.compiled(rivals.plain(ours), draw)
    gigabytes, same = ours().nbytes / 1e9, as_on_the_cpu(paste, masks, boxes)
    compare(words(count, image), calls, alike, op="paste_masks", gigabytes=gigabytes, verify=same)
