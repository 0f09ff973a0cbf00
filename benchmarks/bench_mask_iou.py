"""IoU of all pairs of masks: of run lengths beside pycocotools', of whole masks beside a product of matrices."""

import pytest
import torch
from pycocotools import mask as coco_mask

from benchmarks.cases import as_on_the_cpu, number, select
from htc_fast import ops

USUAL = [(100, (1080, 1920)), (1000, (160, 160))]
REST = [(100, (480, 640)), (300, (800, 1333)), (20, (4000, 6000)), (1000, (480, 640))]
WHOLE = [(100, (480, 640)), (100, (800, 1333)), (1000, (160, 160))]


def words(count: int, image: tuple[int, int]) -> str:
    return f"{number(count)}×{number(count)} at {image[0]}×{image[1]}"


def detections(draw, count: int, image: tuple[int, int]) -> tuple[list[dict], list[dict]]:
    """Masks of one picture, and the same a little elsewhere."""
    (masks, boxes), size = (one.cpu() for one in draw.soft_masks(count, image)), draw.size(image)
    moved = boxes + 0.07 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return ops.encode_masks(masks, boxes, size), ops.encode_masks(masks.flip(2), moved, size)


def same(ours, other, who):
    assert torch.equal(ours, torch.as_tensor(other)), f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), select(USUAL, USUAL[:1], REST))
def bench_run_lengths(compare, draw, count, image):
    a, b = detections(draw, count, image)
    crowd = [0] * len(b)
    calls = {"htc_fast": lambda: ops.mask_iou(a, b), "pycocotools": lambda: coco_mask.iou(a, b, crowd)}
    gigabytes = sum(len(one["counts"]) for one in [*a, *b]) / 1e9
    compare(f"run lengths, {words(count, image)}", calls, same, backend="cpp", gigabytes=gigabytes)


def by_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What mmdetection and SOLOv2 do: a product of floats."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    shared = a @ b.T
    return (shared / (a.sum(1)[:, None] + b.sum(1) - shared).clamp(min=1)).double()


@pytest.mark.parametrize(("count", "image"), select(WHOLE[:1], WHOLE[:1], WHOLE))
def bench_whole_masks(compare, draw, count, image):
    masks, boxes = draw.soft_masks(count, image)
    a = ops.paste_masks(masks, boxes, draw.size(image))
    b = a.roll((5, 9), dims=(1, 2))

    def close(ours, other, who):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6, msg=f"differs from {who}")

    calls = {"htc_fast": lambda: ops.mask_iou(a, b), "product of floats": lambda: by_product(a, b)}
    gigabytes, verify = (a.nbytes + b.nbytes) / 1e9, as_on_the_cpu(ops.mask_iou, a, b)
    compare(f"whole masks, {words(count, image)}", calls, close, op="mask_iou", gigabytes=gigabytes, verify=verify)
