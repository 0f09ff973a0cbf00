"""paste_masks and encode_masks on CUDA, in the emulator: every pixel and every string as the reference has it."""

import pytest
import torch
from emulator import examples, kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc_fast import ops
from htc_fast.ops.reference.encode_masks import encode_masks
from htc_fast.ops.reference.paste_masks import paste_masks

# masks, mask size, image size
CASES = {
    "usual": (4, (28, 28), (90, 140)),
    "one_cell": (3, (1, 1), (20, 30)),
    "flat_masks": (3, (1, 9), (40, 50)),
    "tall_masks": (3, (33, 2), (150, 20)),
    "wide_image": (2, (14, 14), (12, 300)),
    "tall_image": (2, (14, 14), (300, 12)),
    "one_pixel": (3, (28, 28), (1, 1)),
    "no_masks": (0, (28, 28), (30, 40)),
    "no_pixels": (2, (28, 28), (0, 40)),
    "no_columns": (2, (28, 28), (30, 0)),
    "many": (150, (3, 3), (9, 7)),
}


def draw(
    count: int, size: tuple[int, int], image: tuple[int, int], seed: int, kind: str = "smooth"
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *size, generator=generator)
    if kind == "smooth" and min(size) > 6:
        masks = torch.nn.functional.avg_pool2d(masks[:, None], 7, 1, 3, count_include_pad=False)[:, 0] * 3 - 1
    if kind == "binary":
        masks = masks.round()
    reach = torch.tensor([image[1], image[0]], dtype=torch.float32)
    corner = (torch.rand(count, 2, generator=generator) * 1.2 - 0.2) * reach
    extent = torch.rand(count, 2, generator=generator) ** 2 * 1.5 * reach
    boxes = torch.cat([corner, corner + extent], dim=1)
    return masks.clamp(0, 1), boxes.round() if kind == "binary" else boxes


def run(masks: Tensor, boxes: Tensor, image: tuple[int, int], threshold: float) -> tuple[Tensor, list[bytes], Tensor]:
    pasted = torch.full((len(masks), *image), 7, dtype=torch.uint8)
    kernels().paste_masks(masks, boxes, threshold, pasted)
    runs, offsets = kernels().find_runs(masks, boxes, *image, threshold)
    pixels = image[0] * image[1]
    parts = [runs[a:b] for a, b in zip(offsets.tolist(), offsets.tolist()[1:])]
    return pasted, [kernels().compress_runs(part, pixels).numpy().tobytes() for part in parts], runs


def check(masks: Tensor, boxes: Tensor, image: tuple[int, int], threshold: float = 0.5) -> None:
    pasted, strings, _ = run(masks, boxes, image, threshold)
    wanted = paste_masks(masks, boxes, *image, threshold)
    assert torch.equal(pasted, wanted.to(torch.uint8))
    assert strings == encode_masks(masks, boxes, *image, threshold)
    assert strings == [one["counts"] for one in ops.encode_masks(masks, boxes, image, threshold)]


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    set_seed(0 if variant() == "plain" else 5)
    for kind in ("smooth", "binary"):
        check(*draw(*CASES[name], 0, kind), CASES[name][2])


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.2, 1.0])
def test_thresholds(threshold):
    check(*draw(3, (14, 20), (40, 50), 1, "noise"), (40, 50), threshold)


def test_strange_boxes():
    strange = [[torch.nan, 0, 10, 10], [0, 0, torch.inf, 10], [5, 5, 5, 20], [20, 5, 10, 20], [100, 5, 120, 20],
               [-1e30, -1e30, 1e30, 1e30], [3.1, 3.1, 3.2, 9], [-1e38, 2, 1e38, 9], [-400, -300, 500, 400]]  # fmt: skip
    check(torch.ones(len(strange), 14, 20), torch.tensor(strange), (30, 40))
    masks = torch.rand(len(strange), 7, 5)
    masks[:, 2:4, 1] = torch.nan
    check(masks, torch.tensor(strange), (30, 40))


def test_runs_join_between_columns():
    """A mask as tall as the image: its columns touch, and COCO counts them as one run."""
    masks, boxes = torch.ones(1, 28, 28), torch.tensor([[4.0, -9, 21, 40]])
    _, strings, runs = run(masks, boxes, (30, 40), 0.5)
    assert len(runs) == 17 and strings == encode_masks(masks, boxes, 30, 40, 0.5)


def test_order_of_threads_does_not_matter():
    problem = draw(3, (28, 28), (60, 200), 2)
    results = []
    for seed in (0, 1, 2):
        set_seed(seed)
        results.append(run(*problem, (60, 200), 0.5))
    for pasted, strings, runs in results[1:]:
        assert torch.equal(pasted, results[0][0]) and torch.equal(runs, results[0][2]) and strings == results[0][1]


@settings(max_examples=examples(200), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.tuples(st.integers(1, 33), st.integers(1, 33)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(0, 10_000),
    st.sampled_from([-0.5, 0.0, 0.2, 0.5, 0.99, 1.0]),
    st.sampled_from(["smooth", "noise", "binary"]),
)
def test_drawn(size, image, seed, threshold, kind):
    set_seed(seed % 4)
    check(*draw(3, size, image, seed, kind), image, threshold)
