"""From prototypes and coefficients to run lengths, beside ultralytics and plain PyTorch with pycocotools' encode."""

import pytest
import torch

from benchmarks import rivals
from benchmarks.bench_encode_logits import alike
from benchmarks.bench_encode_masks import runs
from benchmarks.cases import as_on_the_cpu, plural, select
from htc_fast import ops
from tests import inputs

# masks, image; 32 prototypes of 160 x 160
USUAL = [(100, (1080, 1920)), (20, (640, 640)), (100, (640, 640))]
QUICK = USUAL[:1]
REST = [(300, (1080, 1920)), (20, (3000, 4000))]
PROTOTYPES, SIDE = 32, 160


def problem(count: int, image: tuple[int, int]) -> list[torch.Tensor]:
    """coefficients [K, 32], prototypes [32, 160, 160], smooth, and boxes [K, 4] of all sizes."""
    rng = inputs.generator(0)
    coarse = torch.randn(1, PROTOTYPES, SIDE // 8, SIDE // 8, generator=rng)
    prototypes = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[0]
    return [torch.randn(count, PROTOTYPES, generator=rng), prototypes, inputs.proposals(count, image=image)[:, 1:]]


def cropped(coefficients, prototypes, boxes, image) -> torch.Tensor:
    """Product, resize, threshold and box over whole images, as ultralytics has them."""
    product = (coefficients @ prototypes.flatten(1)).view(-1, *prototypes.shape[1:])
    x, y = (torch.arange(side, device=boxes.device) for side in (image[1], image[0]))
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    inside = ((x >= x1) & (x < x2))[:, None] & ((y >= y1) & (y < y2))[:, :, None]
    return rivals.interpolated(product, image) & inside


@pytest.mark.parametrize(("count", "image"), select(USUAL, QUICK, REST))
def bench_encode_prototypes(compare, draw, count, image):
    count, image = draw.count(count), draw.size(image)
    given = [one.to(draw.device) for one in problem(count, image)]
    encode = lambda *given: ops.encode_prototypes(*given, image)  # noqa: E731
    calls = {"htc_fast": lambda: encode(*given), "plain PyTorch, pycocotools": lambda: runs(cropped(*given, image))}
    theirs = rivals.ultralytics_masks(*given, image)
    absent = isinstance(theirs, rivals.Absent)
    calls["ultralytics, pycocotools"] = theirs if absent else lambda: runs(theirs())
    words = f"{plural(count, 'mask')} of {PROTOTYPES} prototypes at {image[0]}×{image[1]}"
    gigabytes, same = sum(one.nbytes for one in given) / 1e9, as_on_the_cpu(encode, *given)
    compare(words, calls, alike, op="encode_prototypes", gigabytes=gigabytes, verify=same)
