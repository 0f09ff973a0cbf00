"""Precise RoI pooling's CUDA kernels in the emulator against the plain-PyTorch reference."""

from dataclasses import replace

import pytest
import torch
from emulator import examples, kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pr_roi_pool_cases import BOXES_TOLERANCE, CASES, PreciseInputs
from roi_cases import TOLERANCE, Case
from torch import Tensor


class Problem(PreciseInputs):
    """A case's tensors, and what the kernels make of them."""

    def forward(self) -> Tensor:
        out = torch.full(self.grad.permute(0, 2, 3, 1).shape, float("nan"), dtype=self.case.dtype).permute(0, 3, 1, 2)
        kernels().pr_roi_pool(self.maps, self.rois, self.scales, self.case.size, self.case.aligned, out)
        return out

    def backward(self) -> tuple[list[Tensor], Tensor]:
        maps = [torch.full_like(map, float("nan"), memory_format=torch.channels_last) for map in self.maps]
        boxes = torch.full_like(self.rois, float("nan"))
        arguments = self.rois, self.scales, self.case.size, self.case.aligned
        kernels().pr_roi_pool_backward(self.grad, maps, *arguments)
        kernels().pr_roi_pool_boxes(self.grad, self.maps, *arguments, boxes)
        return maps, boxes


@pytest.fixture(autouse=True)
def one_thread():
    """The reference makes many small matrices: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance * size)


def check(case: Case) -> None:
    problem = Problem(case)
    out, grads, boxes = problem.precise()
    tolerance = TOLERANCE[case.dtype]
    assert_close(problem.forward(), out, tolerance)
    found_grads, found_boxes = problem.backward()
    for found, wanted in zip(found_grads, grads, strict=True):
        assert_close(found, wanted, tolerance)
    assert_close(found_boxes, boxes, BOXES_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    set_seed(0 if variant() == "plain" else 7)
    check(CASES[name])


def test_shuffled_order_gives_the_same_bits():
    problem = Problem(replace(CASES["plain"], channels=8))
    results = []
    for seed in (0, 1, 2):
        set_seed(seed)
        maps, boxes = problem.backward()
        results.append([problem.forward(), *maps, boxes])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("image", [-1.0, 2.0, 1e30, float("nan"), float("-inf")])
def test_images_that_are_not_there_give_zeros(image):
    problem = Problem(replace(CASES["plain"], count=3))
    problem.rois[1, 0] = image
    out, (maps, boxes) = problem.forward(), problem.backward()
    assert (out[1] == 0).all() and (boxes[1] == 0).all() and (out[0] != 0).any() and (boxes[0] != 0).any()
    alone = Problem(replace(CASES["plain"], count=3))
    alone.rois, alone.grad = problem.rois[[0, 2]], problem.grad[[0, 2]]
    assert all(torch.equal(found, wanted) for found, wanted in zip(maps, alone.backward()[0]))


def test_an_infinite_pixel_stays_in_its_bins():
    problem = Problem(replace(CASES["plain"], count=6))
    clean = problem.forward()
    problem.maps[0][:, :, :4, :4] = float("inf")
    touched = ~problem.forward().isfinite()
    assert not torch.isnan(problem.forward()).all() and torch.equal(problem.forward()[~touched], clean[~touched])


@settings(max_examples=examples(300), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
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
        aligned=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(list(TOLERANCE))),
        layout=data.draw(st.sampled_from(["channels_last", "contiguous", "sliced"])),
        batched=data.draw(st.booleans()),
        boxes=data.draw(st.sampled_from(["mixed", "small", "same"])),
        seed=data.draw(st.integers(0, 1000)),
    )
    set_seed(data.draw(st.integers(0, 5)))
    check(case)
