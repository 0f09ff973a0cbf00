"""From box-sized masks to run lengths, beside a paste and pycocotools' encode."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks import rivals
from benchmarks.bench_paste_masks import BYTES, QUICK, REST, USUAL, words
from benchmarks.cases import as_on_the_cpu, select
from htc_fast import ops


def runs(pasted) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(one)) for one in pasted.cpu().numpy().astype(np.uint8)]


def alike(ours, other, who):
    """Ours pasted is the same, to the byte; torchvision's pixel centres differ by half a pixel."""
    if who != "torchvision's paste, pycocotools":
        assert [one["counts"] for one in ours] == [one["counts"] for one in other], f"differs from {who}"
    else:
        mine, theirs = (sum(float(coco_mask.area(one)) for one in some) for some in (ours, other))
        assert abs(mine - theirs) <= 0.1 * theirs + 100, f"differs from {who}"


@pytest.mark.parametrize(("count", "image"), select(USUAL, QUICK, REST))
def bench_encode(compare, draw, count, image):
    masks, boxes = draw.soft_masks(count, image)
    size = draw.size(image)
    encode = lambda masks, boxes: ops.encode_masks(masks, boxes, size)  # noqa: E731
    calls = {"htc_fast": lambda: encode(masks, boxes)}
    if count * image[0] * image[1] <= BYTES:
        paste = rivals.torchvision_paste(masks, boxes, size)
        calls["torchvision's paste, pycocotools"] = lambda: runs(paste())
        calls["our paste, pycocotools"] = lambda: runs(ops.paste_masks(masks, boxes, size))
    else:
        calls["torchvision's paste, pycocotools"] = rivals.Absent("the full masks do not fit")
    # What must be read; the runs are little beside it.
    gigabytes, same = masks.nbytes / 1e9, as_on_the_cpu(encode, masks, boxes)
    compare(words(count, image), calls, alike, op="encode_masks", gigabytes=gigabytes, verify=same)
