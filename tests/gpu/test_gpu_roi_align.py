"""RoIAlign on a GPU: every backend against the reference on the CPU, and what only a GPU can show."""

import pytest
import torch
from roi_cases import CASES, TOLERANCE, Inputs

from htc_fast import ops
from htc_fast.ops import _backend

BACKENDS = ["cuda", "triton"]


def need(backend: str) -> None:
    from htc_fast.ops import _native

    if backend == "cuda" and not _native.has_cuda():
        pytest.skip("built without CUDA kernels")
    if backend not in _backend.available["multi_level_roi_align"]:
        pytest.skip(f"no {backend} backend here")


class OnDevice:
    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.maps = [map.cuda().requires_grad_() for map in inputs.maps]
        self.rois, self.grad = inputs.rois.cuda(), inputs.grad.cuda()

    def forward(self) -> torch.Tensor:
        case, levels = self.inputs.case, self.inputs.levels
        return ops.multi_level_roi_align(
            self.maps[:levels], self.rois, case.size, self.inputs.scales[:levels], sampling_ratio=case.ratio,
            aligned=case.aligned, semantic=self.maps[-1] if case.semantic else None, semantic_scale=0.125,
            semantic_grid=case.semantic or 1)  # fmt: skip

    def backward(self, out: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(out, self.maps, self.grad))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_named(name, backend):
    need(backend)
    problem = OnDevice(Inputs(CASES[name]))
    wanted, wanted_grads = problem.inputs.expected()
    tolerance = TOLERANCE[CASES[name].dtype]
    with ops.use_backend(backend):
        out = problem.forward()
        grads = problem.backward(out)
        again = problem.backward(problem.forward())
    torch.testing.assert_close(out.cpu().double(), wanted, rtol=tolerance, atol=tolerance)
    for found, other, expected in zip(grads, again, wanted_grads):
        size = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance * size)
        assert torch.equal(found, other), "the backward is not deterministic"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("image", [-1.0, 2.0, 1e30, float("nan")])
def test_images_that_are_not_there_give_zeros(backend, image):
    need(backend)
    problem = OnDevice(Inputs(CASES["semantic_box"]))
    problem.rois[1, 0] = image
    with ops.use_backend(backend):
        out = problem.forward()
    assert (out[1] == 0).all() and out.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_captured_in_a_graph(backend):
    need(backend)
    problem = OnDevice(Inputs(CASES["semantic_box"]))
    with ops.use_backend(backend):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            problem.backward(problem.forward())
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = problem.forward()
            grads = problem.backward(out)
        with torch.no_grad():
            problem.rois[:, 1:] += 5
            for map in problem.maps:
                map.mul_(0.5)
        graph.replay()
        fresh = problem.forward()
        assert torch.equal(out, fresh)
        assert all(torch.equal(a, b) for a, b in zip(grads, problem.backward(fresh)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_another_stream_without_waiting(backend):
    need(backend)
    problem = OnDevice(Inputs(CASES["plain"]))
    with ops.use_backend(backend):
        wanted = problem.forward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                out = problem.forward()
                problem.backward(out)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    assert torch.equal(out, wanted)


def test_scattered_gradient_agrees():
    need("cuda")
    problem = OnDevice(Inputs(CASES["semantic_box"]))
    inputs = problem.inputs
    sizes = [inputs.case.images, *(side for map in inputs.maps for side in map.shape[2:])]
    arguments = inputs.rois.cuda(), sizes, inputs.scales[:4], 0, True, 56.0, True, 0.125, 14
    gathered = torch.ops.htc_fast.multi_level_roi_align_backward(problem.grad, *arguments)
    scattered = torch.ops.htc_fast.multi_level_roi_align_backward(problem.grad, *arguments, deterministic=False)
    for a, b in zip(gathered, scattered):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
