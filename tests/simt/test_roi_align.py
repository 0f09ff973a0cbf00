"""RoIAlign's CUDA kernels in the emulator against the plain-PyTorch reference."""

from dataclasses import dataclass, replace

import pytest
import torch
from emulator import kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc_fast.ops.reference import roi_align as reference

# A mean of inputs of size one, rounded once to the output's type.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    levels: tuple[tuple[int, int], ...] = ((40, 56), (20, 28), (10, 14), (5, 7))
    channels: int = 16
    images: int = 2
    count: int = 9
    size: tuple[int, int] = (7, 7)
    ratio: int = 0
    aligned: bool = True
    semantic: int = 0  # the grid of the semantic map; 0: none
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    batched: bool = False  # rois [N, R, 4]
    boxes: str = "mixed"
    seed: int = 0


CASES = {
    "plain": Case(),
    "mask": Case(size=(14, 14), count=4),
    "semantic_box": Case(semantic=14),
    "semantic_mask": Case(size=(14, 14), semantic=14, count=3),
    "semantic_uneven": Case(size=(3, 5), semantic=7, count=5),
    "semantic_coarse": Case(size=(6, 4), semantic=3, count=5),
    "fixed": Case(ratio=2, aligned=False),
    "fixed_many": Case(ratio=11, count=3),
    "half": Case(dtype=torch.float16, semantic=14, channels=24),
    "brain": Case(dtype=torch.bfloat16, semantic=14, channels=24),
    "brain_odd": Case(dtype=torch.bfloat16, channels=13),
    "wide": Case(channels=264, count=2, dtype=torch.bfloat16, size=(2, 3)),
    "odd": Case(channels=5),
    "one_channel": Case(channels=1, size=(28, 28), levels=((60, 44),), count=2),
    "nchw": Case(layout="contiguous"),
    "nchw_half": Case(layout="contiguous", dtype=torch.float16, semantic=14, count=4),
    "sliced": Case(layout="sliced"),
    "batched": Case(batched=True, count=4, images=3),
    "one_level": Case(levels=((33, 21),)),
    "five_levels": Case(levels=((40, 56), (20, 28), (10, 14), (5, 7), (3, 4))),
    "tiny_maps": Case(levels=((1, 1), (2, 1), (1, 3), (1, 1)), semantic=14),
    "small_boxes": Case(boxes="small", count=12),
    "long_boxes": Case(levels=((64, 400), (32, 200)), boxes="long", count=4, channels=8),
    "long_boxes_fixed": Case(levels=((64, 400), (32, 200)), boxes="long", count=4, channels=8, ratio=2),
    "same_place": Case(boxes="same", count=40, channels=4),
    "crowd": Case(boxes="same", count=600, images=1, channels=1, size=(1, 2), levels=((9, 13),)),
    "strange": Case(boxes="strange", count=12, semantic=14),
    "strange_fixed": Case(boxes="strange", count=12, ratio=2),
    "one_bin": Case(size=(1, 1)),
    "many_bins": Case(size=(70, 3), count=2, channels=4),
    "no_boxes": Case(count=0, semantic=14),
}


def draw_boxes(case: Case, generator: torch.Generator) -> Tensor:
    """[K, 4] in pixels of the image, partly outside it."""
    height, width = (4 * side for side in case.levels[0])
    count = case.count * (case.images if case.batched else 1)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 1.1 - 5
    share = torch.rand(count, 2, generator=generator)
    size = {"small": share * 6, "long": share * torch.tensor([1.0, 0.02]) * width + 2}.get(
        case.boxes, share**2 * torch.tensor([width, height]) + 1
    )
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    if case.boxes == "same":
        boxes = boxes[:1].expand(count, 4) + torch.rand(count, 4, generator=generator)
    if case.boxes == "strange":
        odd = [[float("nan"), 0, 20, 20], [0, 0, float("inf"), 9], [30, 30, 10, 10], [5, 5, 5, 5], [-1e6, -1e6, 1e6, 1e6],
               [-90, -90, -50, -50], [0, 0, width, height], [-2, -2, 2, 2], [width - 2, height - 2, width + 9, height + 9]]  # fmt: skip
        boxes[: len(odd)] = torch.tensor(odd)[: len(boxes)]
    return boxes


def arrange(map: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return map.contiguous()
    if layout == "sliced":
        roomy = torch.full((*map.shape[:2], map.shape[2] + 3, map.shape[3] + 2), float("nan"), dtype=map.dtype)
        roomy = roomy.to(memory_format=torch.channels_last)[:, :, 1:-2, 1:-1]
        return roomy.copy_(map)
    return map.contiguous(memory_format=torch.channels_last)


class Problem:
    """A case's tensors, what the kernels make of them, and what the reference does."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(case.seed)
        self.case, self.levels = case, len(case.levels)
        sizes = [*case.levels, *([case.levels[min(1, self.levels - 1)]] if case.semantic else [])]
        maps = [torch.randn(case.images, case.channels, *size, generator=generator) for size in sizes]
        self.maps = [arrange(map.to(case.dtype), case.layout) for map in maps]
        self.scales = [0.25 / 2**level for level in range(self.levels)] + ([0.125] if case.semantic else [])
        boxes = draw_boxes(case, generator)
        if case.batched:
            self.rois = boxes.reshape(case.images, case.count, 4)
        else:
            images = torch.randint(0, case.images, (case.count, 1), generator=generator)
            self.rois = torch.cat([images.float(), boxes], dim=1)
        shape = (len(boxes), *case.size, case.channels)
        self.grad = torch.randn(shape, generator=generator).to(case.dtype).permute(0, 3, 1, 2)
        self.options = [*case.size, case.ratio, case.semantic or 1]

    def forward(self) -> Tensor:
        out = torch.full(self.grad.permute(0, 2, 3, 1).shape, float("nan"), dtype=self.case.dtype).permute(0, 3, 1, 2)
        kernels().roi_align(self.maps, self.case.semantic > 0, self.rois, self.scales, self.options, self.case.aligned, out)
        return out

    def backward(self, deterministic: bool) -> list[Tensor]:
        dtype = self.case.dtype if deterministic else torch.float32
        fill = float("nan") if deterministic else 0.0
        layout = torch.channels_last
        maps = [torch.full(map.shape, fill, dtype=dtype).contiguous(memory_format=layout) for map in self.maps]
        kernels().roi_align_backward(self.grad, maps, self.case.semantic > 0, self.rois, self.scales, self.options,
                                     self.case.aligned, deterministic)  # fmt: skip
        return maps

    def expected(self) -> tuple[Tensor, list[Tensor]]:
        maps = [map.double().requires_grad_() for map in self.maps]
        semantic = maps[-1] if self.case.semantic else None
        out = reference.multi_level_roi_align(
            maps[: self.levels], self.rois, self.case.size, self.scales[: self.levels], self.case.ratio, self.case.aligned,
            56.0, semantic, 0.125, self.case.semantic or 1)  # fmt: skip
        grads = torch.autograd.grad(out, maps, self.grad.double(), allow_unused=True)
        return out.detach(), [torch.zeros_like(m) if g is None else g for g, m in zip(grads, maps)]


@pytest.fixture(autouse=True)
def one_thread():
    """The reference makes many small matrices: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(case: Case) -> None:
    problem = Problem(case)
    out, grads = problem.expected()
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(problem.forward().double(), out, rtol=tolerance, atol=tolerance)
    for deterministic in (True, False):
        # The scattering way sums in float32 and stays there; the gathering way rounds once, to the map's type.
        rounding = tolerance if deterministic else TOLERANCE[torch.float32]
        for found, wanted in zip(problem.backward(deterministic), grads):
            size = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(found.double(), wanted, rtol=rounding, atol=rounding * size)


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    set_seed(0 if variant() == "plain" else 7)
    check(CASES[name])


def test_shuffled_order_gives_the_same_bits():
    problem = Problem(replace(CASES["semantic_box"], channels=8))
    results = []
    for seed in (0, 1, 2):
        set_seed(seed)
        results.append([problem.forward(), *problem.backward(True)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("image", [-1.0, 2.0, 1e30, float("nan"), float("-inf")])
def test_images_that_are_not_there_give_zeros(image):
    problem = Problem(replace(CASES["semantic_box"], count=3))
    problem.rois[1, 0] = image
    out = problem.forward()
    assert (out[1] == 0).all() and (out[0] != 0).any()
    alone = Problem(replace(CASES["semantic_box"], count=3))
    alone.rois, alone.grad = problem.rois[[0, 2]], problem.grad[[0, 2]]
    for found, wanted in zip(problem.backward(True), alone.backward(True)):
        assert torch.equal(found, wanted)


def test_an_infinite_pixel_stays_in_its_bins():
    problem = Problem(replace(CASES["plain"], count=6))
    clean = problem.forward()
    problem.maps[0][:, :, :4, :4] = float("inf")
    touched = ~problem.forward().isfinite()
    assert not torch.isnan(problem.forward()).all() and torch.equal(problem.forward()[~touched], clean[~touched])


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.skipif(variant() != "plain", reason="drawn cases run once, without instrumentation")
def test_drawn(data):
    levels = [(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))]
    for _ in range(data.draw(st.integers(0, 3))):
        levels.append((max(1, levels[-1][0] // 2), max(1, levels[-1][1] // 2)))
    case = Case(
        levels=tuple(levels),
        channels=data.draw(st.sampled_from([1, 3, 4, 8, 16, 17, 32])),
        images=data.draw(st.integers(1, 3)),
        count=data.draw(st.integers(0, 6)),
        size=(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))),
        ratio=data.draw(st.sampled_from([0, 1, 2, 3])),
        aligned=data.draw(st.booleans()),
        semantic=data.draw(st.sampled_from([0, 7, 14])),
        dtype=data.draw(st.sampled_from(list(TOLERANCE))),
        layout=data.draw(st.sampled_from(["channels_last", "contiguous", "sliced"])),
        batched=data.draw(st.booleans()),
        boxes=data.draw(st.sampled_from(["mixed", "small", "same"])),
        seed=data.draw(st.integers(0, 1000)),
    )
    set_seed(data.draw(st.integers(0, 5)))
    check(case)
