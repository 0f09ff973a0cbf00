"""RoIAlign where only a GPU can show it: captured in a graph, on other streams and threads, without waiting."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from htc_fast import ops
from tests.ops.backends import ON_GPU, columns, run_without_waiting
from tests.ops.roi_cases import CASES, Inputs

ON = pytest.mark.parametrize("column", columns("multi_level_roi_align", ON_GPU))


class OnDevice:
    def __init__(self, name: str) -> None:
        self.inputs = Inputs(CASES[name])
        self.maps = [map.cuda().requires_grad_() for map in self.inputs.maps]
        self.inputs.rois, self.grad = self.inputs.rois.cuda(), self.inputs.grad.cuda()

    def forward(self) -> torch.Tensor:
        inputs, semantic = self.inputs, self.inputs.case.semantic
        return ops.multi_level_roi_align(
            self.maps[: inputs.levels], inputs.rois, inputs.case.size, inputs.scales[: inputs.levels],
            semantic=self.maps[-1] if semantic else None, semantic_grid=semantic or 1)  # fmt: skip

    def backward(self, out: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(out, self.maps, self.grad))


@ON
def test_captured_in_a_graph(column):
    problem = OnDevice("semantic_box")
    with ops.use_backend(column.backend):
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
            problem.inputs.rois[:, 1:] += 5
            for map in problem.maps:
                map.mul_(0.5)
        graph.replay()
        fresh = problem.forward()
        assert torch.equal(out, fresh)
        assert all(torch.equal(a, b) for a, b in zip(grads, problem.backward(fresh)))


@ON
def test_on_another_stream_without_waiting(column):
    problem = OnDevice("plain")

    def elsewhere():
        with torch.cuda.stream(torch.cuda.Stream()):
            out = problem.forward()
            problem.backward(out)
            return out

    with ops.use_backend(column.backend):
        wanted = problem.forward()
        out = run_without_waiting(elsewhere)
        torch.cuda.synchronize()
    assert torch.equal(out, wanted)


@ON
def test_threads(column):
    problem = OnDevice("semantic_box")

    def work(_):
        with ops.use_backend(column.backend):
            return problem.forward()

    wanted = work(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(one, wanted) for one in pool.map(work, range(8)))
