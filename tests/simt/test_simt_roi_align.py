"""RoIAlign's CUDA kernels in the emulator against the plain-PyTorch reference."""

from dataclasses import replace

import pytest
import torch
from emulator import examples, kernels, set_seed, variant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roi_cases import CASES, TOLERANCE, Case, Inputs
from torch import Tensor


class Problem(Inputs):
    """A case's tensors, what the kernels make of them, and what the reference does."""

    def forward(self) -> Tensor:
        out = torch.full(self.grad.permute(0, 2, 3, 1).shape, float("nan"), dtype=self.case.dtype).permute(0, 3, 1, 2)
        kernels().roi_align(
            self.maps, self.case.semantic > 0, self.rois, self.scales, self.options, self.case.aligned, out
        )
        return out

    def backward(self, deterministic: bool) -> list[Tensor]:
        dtype = self.case.dtype if deterministic else torch.float32
        fill = float("nan") if deterministic else 0.0
        layout = torch.channels_last
        maps = [torch.full(map.shape, fill, dtype=dtype).contiguous(memory_format=layout) for map in self.maps]
        kernels().roi_align_backward(self.grad, maps, self.case.semantic > 0, self.rois, self.scales, self.options,
                                     self.case.aligned, deterministic)  # fmt: skip
        return maps


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
