"""Precise RoI pooling on a GPU against the reference on the CPU, and what only a GPU can show."""

import pytest
import torch
from pr_roi_pool_cases import BOXES_TOLERANCE, CASES, PreciseInputs
from roi_cases import TOLERANCE
from torch import Tensor

from htc_fast import ops
from htc_fast.ops import _native


@pytest.fixture(autouse=True)
def cuda_kernels():
    if "htc_fast::pr_roi_pool" not in _native.cuda_operators:
        pytest.skip("built without CUDA kernels")


class OnDevice:
    def __init__(self, name: str) -> None:
        self.inputs = PreciseInputs(CASES[name])
        self.maps = [map.cuda().requires_grad_() for map in self.inputs.maps]
        self.rois, self.grad = self.inputs.rois.cuda().requires_grad_(), self.inputs.grad.cuda()

    def forward(self) -> Tensor:
        case = self.inputs.case
        return ops.pr_roi_pool(self.maps, self.rois, case.size, self.inputs.scales, aligned=case.aligned)

    def run(self) -> list[Tensor]:
        """The output, the maps' gradients, the rois'."""
        out = self.forward()
        return [out.detach(), *torch.autograd.grad(out, [*self.maps, self.rois], self.grad)]


@pytest.mark.parametrize("name", CASES)
def test_named(name):
    problem = OnDevice(name)
    found, again = problem.run(), problem.run()
    out, grads, boxes = problem.inputs.precise()
    tolerances = [*[TOLERANCE[CASES[name].dtype]] * (1 + len(grads)), BOXES_TOLERANCE]
    for one, other, wanted, tolerance in zip(found, again, [out, *grads, boxes], tolerances, strict=True):
        size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
        torch.testing.assert_close(one.cpu().float(), wanted, rtol=tolerance, atol=tolerance * size)
        assert torch.equal(one, other), "it is not deterministic"


@pytest.mark.parametrize("image", [-1.0, 2.0, 1e30, float("nan")])
def test_images_that_are_not_there_give_zeros(image):
    problem = OnDevice("plain")
    with torch.no_grad():
        problem.rois[1, 0] = image
    out, *_, boxes = problem.run()
    assert (out[1] == 0).all() and (boxes[1] == 0).all() and out.isfinite().all()


def test_captured_in_a_graph():
    problem = OnDevice("plain")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        problem.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = problem.run()
    with torch.no_grad():
        problem.rois[:, 1:] += 5
        for map in problem.maps:
            map.mul_(0.5)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(found, problem.run(), strict=True))


def test_on_another_stream_without_waiting():
    problem = OnDevice("plain")
    wanted = problem.run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = problem.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
